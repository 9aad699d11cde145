"""Image → faces, with a detector and an encoder that say what they are told."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import SECOND, FaceStub, Fragile, Log, only, taken

from synctva_ros.config import FaceFinder
from synctva_ros.events import Faces, Image
from synctva_ros.street import faces
from synctva_ros.street.faces import MOST_EXPRESSIONS, FacesStage
from synctva_ros.vision.crop import LEAST_QUALITY, quality
from synctva_ros.vision.detector import FaceBox, WholeImage
from synctva_ros.vision.image import check_image

#: Sharp, so that a face in it can be read as well as the detector is sure.
PIXELS = np.random.default_rng(0).integers(0, 256, (240, 640, 3), np.uint8)
LANDMARKS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]], np.float32)


def box(x: float, side: float = 100.0, score: float = 1.0, landmarks: bool = False) -> FaceBox:
    points = np.array([x, 60.0], np.float32) + side * LANDMARKS
    return FaceBox(x, 60.0, side, side, score, points if landmarks else None)


class Detector(Fragile):
    name = "stub"

    def __init__(self, *boxes: FaceBox) -> None:
        super().__init__()
        self.boxes = list(boxes)

    def detect(self, image: Any) -> list[FaceBox]:
        check_image(image)
        self.work()
        return sorted(self.boxes, key=lambda one: -one.area)


class Camera:
    """A stage that looks at images of it; ``looked`` is what came of one taken at so many seconds."""

    def __init__(self, *boxes: FaceBox, **parameters: Any) -> None:
        self.detector, self.encoder, self.log = Detector(*boxes), FaceStub(), Log()
        self.config = FaceFinder(**({"expression_rate": 120.0} | parameters))
        self.stage = FacesStage(self.config, self.detector, self.encoder, self.log)  # type: ignore[arg-type]

    def looked(self, seconds: float, source: Any = PIXELS) -> Faces:
        found = only(taken(self.stage, Image(round(seconds * SECOND), source, "camera")))
        assert (found.stamp, found.frame_id) == (round(seconds * SECOND), "camera")
        return found

    def ids(self, seconds: float) -> list[str]:
        return [face.face_id for face in self.looked(seconds).faces]


def test_a_face_says_where_it_is_in_shares_of_the_image() -> None:
    found = Camera(box(160.0, landmarks=True)).looked(1.0)
    assert (found.looked_at, found.width, found.height, found.encoder) == (True, 640, 240, "face-stub")
    assert found.duration > 0.0
    face = only(found.faces)
    assert (face.x, face.y, face.width, face.height) == (160 / 640, 60 / 240, 100 / 640, 100 / 240)
    assert (face.face_id, face.person_id, face.score) == ("f1", "", 1.0)
    assert face.quality == quality(PIXELS, box(160.0, landmarks=True)) > LEAST_QUALITY
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks[0], [(160 + 30) / 640, (60 + 40) / 240], atol=1e-6)
    assert face.expression is not None
    assert face.expression.shape == (1,)
    assert 0.0 <= face.mouth_opening <= 1.0


def test_without_landmarks_nothing_is_said_of_the_mouth() -> None:
    face = only(Camera(box(160.0)).looked(1.0).faces)
    assert face.landmarks is None
    assert math.isnan(face.mouth_opening)


def test_all_faces_are_told_the_largest_first_each_with_its_own_expression() -> None:
    camera = Camera(box(10.0, 100.0), box(300.0, 160.0))
    first, second = camera.looked(1.0).faces
    assert first.width > second.width
    assert first.expression is not None
    assert second.expression is not None
    assert first.expression[0] != second.expression[0]
    assert camera.encoder.calls == 1
    assert camera.stage.state().sentence == "2 faces in view"


def test_without_a_face_there_is_a_report_too() -> None:
    camera = Camera()
    found = camera.looked(1.0)
    assert (found.looked_at, found.faces, camera.encoder.calls) == (True, (), 0)
    assert (camera.stage.state().level, camera.stage.state().sentence) == (0, "no face in view")


def test_a_face_that_cannot_be_read_has_a_box_but_no_expression() -> None:
    camera = Camera(box(10.0, score=0.5), box(300.0))
    poor, good = sorted(camera.looked(1.0).faces, key=lambda face: face.x)
    assert 0.0 < poor.quality < LEAST_QUALITY <= good.quality
    assert poor.expression is None
    assert good.expression is not None
    camera.detector.boxes = [box(10.0, score=0.5)]
    calls = camera.encoder.calls
    assert only(camera.looked(2.0).faces).expression is None
    assert camera.encoder.calls == calls


def test_expressions_are_those_of_the_faces_that_can_be_read() -> None:
    """Also when one in between cannot."""
    camera = Camera(box(10.0, 110.0), box(200.0, 105.0, score=0.5), box(400.0, 100.0))
    alone = Camera(box(400.0, 100.0)).looked(1.0).faces[0].expression
    first, poor, last = camera.looked(1.0).faces
    assert poor.expression is None
    np.testing.assert_array_equal(last.expression, alone)
    assert first.expression is not None


def test_the_expressions_of_the_largest_faces_are_looked_at() -> None:
    camera = Camera(*(box(45.0 * number, 60.0 - number) for number in range(MOST_EXPRESSIONS + 2)))
    camera.stage._tracker._detector.boxes = [  # sharp and large enough to be read
        FaceBox(45.0 * number, 60.0, 80.0 - number, 80.0 - number, 1.0) for number in range(MOST_EXPRESSIONS + 2)
    ]
    faces = camera.looked(1.0).faces
    assert all(face.quality >= LEAST_QUALITY for face in faces)
    assert [face.expression is not None for face in faces] == [True] * MOST_EXPRESSIONS + [False] * 2


def test_an_image_that_shows_nothing_but_a_face_is_one_face() -> None:
    stage = FacesStage(FaceFinder(), WholeImage(), FaceStub(), Log())
    face = only(only(taken(stage, Image(0, PIXELS))).faces)
    assert (face.x, face.y, face.width, face.height) == (0.0, 0.0, 1.0, 1.0)


# --- time


def test_a_face_keeps_its_id_and_a_new_one_gets_another() -> None:
    camera = Camera(box(160.0))
    assert camera.ids(1.0) == camera.ids(1.1) == ["f1"]
    camera.detector.boxes.append(box(400.0, 90.0))
    assert camera.ids(1.2) == ["f1", "f2"]


def test_an_image_that_comes_late_is_not_looked_at_and_the_tracks_go_on() -> None:
    camera = Camera(box(160.0))
    camera.looked(1.0)
    calls = camera.detector.calls
    for seconds in (0.9, 0.95, 0.001):
        late = camera.looked(seconds)
        assert (late.looked_at, late.faces) == (False, ())
    assert (camera.detector.calls, camera.stage.counts["late"], camera.stage.counts["errors"]) == (calls, 3, 0)
    assert camera.ids(1.1) == ["f1"]


def test_an_image_from_far_back_begins_anew() -> None:
    camera = Camera(box(160.0))
    camera.looked(100.0)
    assert camera.ids(99.0) == ["f2"]
    assert camera.ids(99.1) == ["f2"]
    assert camera.stage.counts["late"] == 0


def test_no_more_images_are_looked_at_than_asked_for() -> None:
    camera = Camera(box(160.0), face_rate=10.0)
    found = [camera.looked(number / 30) for number in range(30)]
    assert [one.looked_at for one in found] == [number % 3 == 0 for number in range(30)]
    assert camera.detector.calls == camera.stage.counts["images"] == 10
    assert camera.stage.counts["late"] == 0


def test_all_images_of_a_camera_that_does_not_keep_time_are_looked_at() -> None:
    camera = Camera(face_rate=10.0)
    assert all(camera.looked(number / 10 + 0.015 * (number % 2)).looked_at for number in range(20))


def test_the_rate_may_change_at_any_time() -> None:
    camera = Camera(face_rate=1.0)
    assert [camera.looked(seconds).looked_at for seconds in (0.0, 0.5)] == [True, False]
    camera.config.face_rate = 10.0
    assert [camera.looked(seconds).looked_at for seconds in (0.6, 0.7, 0.75)] == [True, True, False]


def test_the_same_image_again_is_not_looked_at() -> None:
    camera = Camera(box(160.0))
    assert [camera.looked(1.0).looked_at for _ in range(3)] == [True, False, False]


def test_reset_forgets_time_and_tracks() -> None:
    camera = Camera(box(160.0))
    camera.looked(1.0)
    camera.stage.reset()
    assert camera.ids(0.95) == ["f2"]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(-3.0, 3.0), st.sampled_from(["", "", "", "unreadable", "detector", "encoder"]))))
def test_there_is_one_report_for_each_image_that_was_taken(steps: list[tuple[float, str]]) -> None:
    camera, now = Camera(box(160.0)), 100.0
    for step, what in steps:
        now += step
        camera.detector.is_broken, camera.encoder.is_broken = what == "detector", what == "encoder"
        found = camera.looked(now, unreadable if what == "unreadable" else PIXELS)
        assert bool(found.faces) == found.looked_at


# --- failures


def unreadable() -> np.ndarray:
    raise ValueError("image: 12 bytes are no image")


@pytest.mark.parametrize("source", [unreadable, np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.float32)])
def test_an_image_that_cannot_be_read_is_not_looked_at(source: Any) -> None:
    camera = Camera(box(160.0))
    camera.looked(1.0)
    found = camera.looked(1.1, source)
    assert (found.looked_at, found.faces) == (False, ())
    assert camera.stage.state().level == 1
    assert camera.looked(1.15).looked_at is False  # too soon; nothing was tried
    assert camera.stage.state().level == 1
    assert camera.ids(1.2) == ["f1"]
    assert camera.stage.state().level == 0


def test_an_image_nobody_looks_at_is_not_decoded() -> None:
    camera = Camera(box(160.0))
    camera.looked(1.0)
    assert camera.looked(1.01, unreadable).looked_at is camera.looked(0.9, unreadable).looked_at is False
    assert camera.stage.counts["errors"] == 0


def test_a_detector_that_raises_costs_its_images() -> None:
    camera = Camera(box(160.0))
    camera.detector.is_broken = True
    for number in range(1000):
        assert camera.looked(number).looked_at is False
        assert camera.stage.state().sentence == "faces failed: RuntimeError: broken"
    assert (camera.stage.counts["errors"], len(camera.log.errors)) == (1000, 1)
    camera.detector.is_broken = False
    assert camera.ids(1000.0) == ["f1"]
    assert camera.stage.state().level == 0


def test_an_encoder_that_raises_costs_the_expressions() -> None:
    camera = Camera(box(160.0), box(400.0))
    camera.encoder.is_broken = True
    for number in range(1000):
        found = camera.looked(number)
        assert [face.expression for face in found.faces] == [None, None]
        assert found.looked_at
        assert (camera.stage.state().level, camera.stage.state().sentence) == (1, "faces failed: RuntimeError: broken")
    assert (camera.stage.counts["errors"], len(camera.log.errors)) == (1000, 1)
    camera.encoder.is_broken = False
    assert all(face.expression is not None for face in camera.looked(1000.0).faces)
    assert camera.stage.state().level == 0


def test_an_encoder_that_gives_too_few_vectors_costs_the_expressions() -> None:
    camera = Camera(box(160.0), box(400.0))
    camera.encoder.encode = lambda crops: np.zeros((1, 1), np.float32)  # type: ignore[method-assign]
    assert [face.expression for face in camera.looked(1.0).faces] == [None, None]
    assert camera.stage.counts["errors"] == 1


def test_it_is_warmed_up() -> None:
    camera = Camera()
    camera.stage.warm_up()
    assert camera.encoder.calls == 1


# --- how often an expression is looked at


def test_the_expression_of_a_face_is_looked_at_as_often_as_asked_for() -> None:
    camera = Camera(box(160.0), expression_rate=5.0)
    rng = np.random.default_rng(1)
    found = [camera.looked(number / 10, rng.integers(0, 256, PIXELS.shape, np.uint8)) for number in range(10)]
    assert all(one.looked_at for one in found)
    assert [only(one.faces).expression is not None for one in found] == [True, False] * 5
    camera.config.expression_rate = 10.0
    assert only(camera.looked(1.0).faces).expression is not None
    assert only(camera.looked(1.1, PIXELS[::-1].copy()).faces).expression is not None


def test_each_face_has_its_own_turn() -> None:
    camera = Camera(box(160.0), expression_rate=5.0)
    camera.looked(0.0)
    camera.detector.boxes.append(box(400.0, 90.0))
    old, new = camera.looked(0.1).faces
    assert (old.expression, new.expression is not None) == (None, True)


def test_a_face_that_looks_the_same_expresses_the_same_and_costs_nothing() -> None:
    camera = Camera(box(160.0))
    first, second = (only(camera.looked(seconds).faces) for seconds in (0.0, 0.2))
    np.testing.assert_array_equal(first.expression, second.expression)
    assert camera.encoder.calls == 1
    other = only(camera.looked(0.4, PIXELS[::-1].copy()).faces)
    assert camera.encoder.calls == 2
    assert other.expression is not None


def test_a_face_whose_expression_could_not_be_told_is_looked_at_again_at_once() -> None:
    camera = Camera(box(160.0), expression_rate=1.0)
    camera.encoder.is_broken = True
    assert only(camera.looked(0.0).faces).expression is None
    camera.encoder.is_broken = False
    assert only(camera.looked(0.1).faces).expression is not None


def test_images_that_stop_and_faces_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(box(100.0))
    now = [1000.0]
    monkeypatch.setattr(faces, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter))

    def lacks() -> dict[str, tuple[int, str]]:
        return {key: (state.level, state.sentence[:26]) for key, state in camera.stage.lacks(now[0]).items()}

    def watch(seconds: int) -> None:
        for _ in range(seconds):
            now[0] += 1.0
            camera.looked(now[0])

    assert lacks() == {}  # nobody has promised any image
    watch(70)
    assert lacks() == {}
    now[0] += 5.1
    assert lacks() == {"images": (1, "no image has come for 5 s:")}
    camera.detector.boxes = []
    watch(60)
    assert lacks() == {}  # since the images have come again
    watch(2)
    assert lacks() == {"face": (0, "no face has been in view f")}
    camera.detector.boxes = [box(100.0, score=0.3)]
    watch(1)
    assert lacks() == {"face": (0, "no face could be read for ")}
    camera.detector.boxes = [box(100.0)]
    watch(1)
    assert lacks() == {}
