"""All faces in view, each with its id."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_faces import FRAME, SECOND, Script, box, scene

from synctva_ros.events import ImageArray
from synctva_ros.vision import tracks
from synctva_ros.vision.detector import FaceBox, FaceDetector, WholeImage
from synctva_ros.vision.tracks import FaceTracker

STEP = SECOND // 10


def ids(tracker: FaceTracker, stamp: int, *boxes: FaceBox) -> list[str]:
    """Those of the boxes, in the order in which they are given."""
    detector = tracker._detector
    assert isinstance(detector, Script)
    detector.boxes = list(boxes)
    seen = {id(face.box): face.face_id for face in tracker.observe(stamp, FRAME)}
    return [seen[id(given)] for given in boxes]


def test_faces_in_images(detector: FaceDetector, person: ImageArray) -> None:
    tracker = FaceTracker(detector)
    for i in range(6):
        faces = tracker.observe(i * STEP, scene((person, 1.0, 10 + 15 * i, 100), (person, 0.6, 450, 100)))
        assert [face.face_id for face in faces] == ["f1", "f2"]
        assert faces[0].box.area > faces[1].box.area
        for face in faces:
            assert face.crop.shape == (48, 48)
            assert face.crop.dtype == np.uint8
            assert 0 < face.quality <= 1
            assert math.isnan(face.mouth_opening) == (face.box.landmarks is None)


def test_each_face_has_its_own_quality(detector: FaceDetector, person: ImageArray) -> None:
    tracker = FaceTracker(detector)
    blurred = cv2.GaussianBlur(person, (0, 0), 3)
    for i in range(4):
        left, right = (person, blurred) if i < 2 else (blurred, person)
        faces = {
            face.face_id: face for face in tracker.observe(i * STEP, scene((left, 1.1, 10, 50), (right, 1, 330, 50)))
        }
        sharp, poor = (faces["f1"], faces["f2"]) if i < 2 else (faces["f2"], faces["f1"])
        assert sharp.quality > 1.1 * poor.quality


def test_crops_are_as_large_as_the_encoder_takes_them(person: ImageArray) -> None:
    detector = Script()
    detector.boxes = [box(100), box(300, 60)]
    assert [face.crop.shape for face in FaceTracker(detector, side=112).observe(0, FRAME)] == [(112, 112)] * 2
    (face,) = FaceTracker(WholeImage(), side=112).observe(0, person)
    assert face.crop.shape == (112, 112)
    assert face.face_id == "f1"


def test_a_face_keeps_its_id_when_a_larger_one_comes() -> None:
    tracker = FaceTracker(Script())
    for i in range(20):
        own, others = box(50 + 5 * i), [box(400, 200)] if i >= 5 else []
        assert ids(tracker, i * STEP, own, *others) == ["f1", "f2"][: 1 + len(others)]


def test_a_very_different_box_in_the_same_place_is_the_same_face() -> None:
    """One that comes closer or turns round between two images, or that a turned copy found."""
    tracker = FaceTracker(Script())
    assert ids(tracker, 0, box(100, 100)) == ["f1"]
    assert ids(tracker, SECOND // 2, box(75, 150, y=75)) == ["f1"]
    assert ids(tracker, SECOND, FaceBox(120, 100, 75, 120, 0.7)) == ["f1"]
    assert ids(tracker, SECOND + STEP, box(160)) == ["f1"]


def test_hidden_face_keeps_its_id_lost_face_does_not() -> None:
    tracker = FaceTracker(Script())
    assert ids(tracker, 0, box(50), box(400, 80)) == ["f1", "f2"]
    # Hidden for less than a second: nobody takes the place.
    assert ids(tracker, SECOND // 2, box(400, 80)) == ["f2"]
    assert ids(tracker, SECOND, box(55), box(400, 80)) == ["f1", "f2"]
    # Lost for more than a second: a new id, as for another face in its place.
    assert ids(tracker, SECOND * 3 // 2, box(400, 80)) == ["f2"]
    assert ids(tracker, SECOND * 2 + 1, box(55), box(400, 80)) == ["f3", "f2"]
    assert ids(tracker, SECOND * 4) == []
    assert ids(tracker, SECOND * 5, box(400, 80)) == ["f4"]


def test_faces_that_come_and_go_do_not_change_the_others() -> None:
    tracker = FaceTracker(Script(), lost_after=0.5)
    for i in range(40):
        away = 10 <= i < 20
        faces = [box(50), box(250), *([] if away else [box(450)])]
        assert ids(tracker, i * STEP, *faces) == ["f1", "f2", *([] if away else ["f3" if i < 10 else "f4"])]


@pytest.mark.parametrize("speed", [8, 12, 25])
@pytest.mark.parametrize("behind", [100, 80])
def test_faces_that_cross_keep_their_ids(speed: int, behind: int) -> None:
    """Also when the one in front hides the other as soon as they overlap much, as a detector has it."""
    for hides in (False, True):
        tracker = FaceTracker(Script())
        hidden = 0
        for i in range(400 // speed):
            front, back = box(50 + speed * i), box(450 - speed * i, behind)
            hidden += (hide := hides and tracks._overlap(front, back) > 0.3)
            expected = ["f1"] if hide else ["f1", "f2"]
            assert ids(tracker, i * STEP, *([front] if hide else [front, back])) == expected, (hides, i)
        assert bool(hidden) == hides


def test_time_must_advance_until_cleared() -> None:
    tracker = FaceTracker(Script())
    assert ids(tracker, 100, box(50), box(300)) == ["f1", "f2"]
    for stamp in (100, 50):
        with pytest.raises(ValueError, match=r"image at \d+ ns after one at 100 ns"):
            ids(tracker, stamp, box(50))
    assert ids(tracker, 101, box(50)) == ["f1"]
    tracker.clear()
    assert ids(tracker, 50, box(50)) == ["f3"]


def test_what_is_no_image_changes_nothing(detector: FaceDetector, person: ImageArray) -> None:
    tracker = FaceTracker(detector)
    frame = scene((person, 1.0, 100, 100))
    tracker.observe(0, frame)
    with pytest.raises(ValueError, match="give uint8"):
        tracker.observe(STEP, frame.astype(np.float32))
    assert [face.face_id for face in tracker.observe(STEP, frame)] == ["f1"]


@pytest.mark.parametrize("limit", ["side", "lost_after"])
def test_limits_must_be_positive(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        FaceTracker(Script(), **{limit: 0})


BOXES = st.lists(
    st.builds(
        FaceBox,
        st.integers(0, 200).map(float),
        st.integers(0, 100).map(float),
        st.integers(20, 120).map(float),
        st.integers(20, 120).map(float),
        st.just(0.9),
    ),
    max_size=6,
)
IMAGES = st.lists(st.tuples(st.integers(1, 3 * SECOND // 2), BOXES, st.booleans()), max_size=12)


@given(IMAGES)
def test_one_id_a_face_and_no_id_twice(images: list[tuple[int, list[FaceBox], bool]]) -> None:
    tracker = FaceTracker(Script())
    small = np.zeros((8, 8), np.uint8)
    detector = tracker._detector
    assert isinstance(detector, Script)
    last: dict[str, tuple[int, FaceBox]] = {}  # of the tracks that may go on
    over: set[str] = set()
    stamp = newest = 0
    for gap, boxes, jump in images:
        if jump:
            tracker.clear()
            over |= set(last)
            last.clear()
            stamp = 0
        stamp += gap
        detector.boxes = boxes
        faces = tracker.observe(stamp, small)
        # Every box is a face, in the detector's order, and no two have the same id.
        assert [face.box for face in faces] == detector.detect(small)
        assert len({face.face_id for face in faces}) == len(faces)
        gone = {face_id for face_id, (seen, _) in last.items() if stamp - seen > SECOND}
        over |= gone
        last = {face_id: value for face_id, value in last.items() if face_id not in gone}
        begun = [face for face in faces if face.face_id not in last]
        # Ids count on; what is over is never used again.
        assert not over & {face.face_id for face in faces}
        assert [face.face_id for face in begun] == [f"f{newest + 1 + i}" for i in range(len(begun))]
        newest += len(begun)
        # Nobody starts a track in a place from which another one could have gone on.
        idle = [box for face_id, (_, box) in last.items() if face_id not in {face.face_id for face in faces}]
        assert not any(tracks._overlap(face.box, box) >= 0.2 for face in begun for box in idle)
        last |= {face.face_id: (stamp, face.box) for face in faces}
