"""Faces cut out and aligned, how well they can be read, and how far the mouth is open."""

from __future__ import annotations

import math

import av
import cv2
import numpy as np
import pytest
from made_faces import DATA, FRAME, POINTS, box, scene

from synctva_ros.events import ImageArray
from synctva_ros.vision.crop import LANDMARKS, crop, cut, mouth_opening, quality
from synctva_ros.vision.detector import FaceBox, FaceDetector, WholeImage


def test_crop_shows_the_box_and_repeats_the_edge() -> None:
    image = np.zeros((200, 300), np.uint8)
    image[50:150, 100:200] = 200
    assert crop(image, box(100, y=50))[4:-4, 4:-4].min() == 200
    half = crop(np.fliplr(np.tile(np.arange(200, dtype=np.uint8), (200, 1))), box(110, y=50))
    assert half[0, 0] > half[0, -1]


@pytest.mark.parametrize("side", [48, 112])
def test_crop_puts_eyes_and_mouth_where_fer2013_has_them(side: int) -> None:
    """Whatever size, place and tilt the face has."""
    for size, angle, x, y in ((0.4, 0, 150, 120), (1.0, 20, 100, 100), (3.0, -35, 300, 200)):
        image = np.zeros((480, 640), np.uint8)
        turn = cv2.getRotationMatrix2D((132, 125), angle, size)
        turn[:, 2] += (x - 132, y - 125)
        points = (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
        for px, py in points[[0, 1, 3, 4]]:
            cv2.circle(image, (round(float(px)), round(float(py))), max(2, round(4 * size)), 255, -1)
        face = crop(image, FaceBox(x - 50 * size, y - 60 * size, 100 * size, 120 * size, 0.9, points), side)
        assert face.shape == (side, side)
        for px, py in LANDMARKS * side:
            assert face[round(py) - 1 : round(py) + 2, round(px) - 1 : round(px) + 2].max() > 100, (size, px, py)


def test_crop_levels_the_eyes(person: ImageArray) -> None:
    """With landmarks, a tilted head gives nearly the crop of the upright one."""

    def face(image: ImageArray, landmarks: np.ndarray | None) -> np.ndarray:
        return crop(image, FaceBox(82, 65, 100, 100, 0.9, landmarks)).astype(float)

    turn = cv2.getRotationMatrix2D((132, 115), 20, 1)
    tilted = cv2.warpAffine(person, turn, person.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    tilted_points = (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    upright = face(person, POINTS)
    levelled = np.corrcoef(upright.ravel(), face(tilted, tilted_points).ravel())[0, 1]
    as_is = np.corrcoef(upright.ravel(), face(tilted, None).ravel())[0, 1]
    assert levelled > 0.97 > as_is


@pytest.mark.parametrize("landmarks", [None, np.full((5, 2), 700.0, np.float32), 300 * POINTS])
@pytest.mark.parametrize("x", [-190.0, 630.0])
def test_crop_of_a_box_beyond_the_edge(x: float, landmarks: np.ndarray | None) -> None:
    face = FaceBox(x, -150, 200, 200, 0.9, landmarks)
    assert crop(FRAME, face).shape == (48, 48)
    looks = cut(FRAME, face)
    assert looks.quality < 0.1
    assert math.isnan(looks.mouth_opening)


def test_the_whole_image_is_taken_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    for picture in (image, grey):
        np.testing.assert_array_equal(crop(picture, WholeImage().detect(picture)[0]), grey)
    # Filled up where it is not square: at the top and bottom of a wide one, left and right of a high one.
    wide = np.ascontiguousarray(image[10:30])
    face = crop(wide, WholeImage().detect(wide)[0])
    np.testing.assert_array_equal(face[14:34], grey[10:30])
    assert (face[:14] == grey[10]).all()
    assert (face[34:] == grey[29]).all()
    high = np.ascontiguousarray(np.swapaxes(wide, 0, 1))
    np.testing.assert_array_equal(crop(high, WholeImage().detect(high)[0]), face.T)
    # Brought to the side asked for.
    for size in (30, 90):
        other = cv2.resize(image, (size, size))
        face = crop(other, WholeImage().detect(other)[0], 64)
        assert face.shape == (64, 64)
        assert abs(float(face.mean()) - float(grey.mean())) < 5


def test_all_of_a_face_at_once(detector: FaceDetector, person: ImageArray) -> None:
    frame = scene((person, 1.3, 100, 50))
    for face in (*detector.detect(frame), *WholeImage().detect(frame)):
        for side in (48, 80):
            looks = cut(frame, face, side)
            np.testing.assert_array_equal(looks.crop, crop(frame, face, side))
            assert looks.crop.dtype == np.uint8
            # Thresholds of the quality hold for every encoder.
            assert looks.quality == quality(frame, face)
            np.testing.assert_equal(looks.mouth_opening, mouth_opening(frame, face))


def test_quality_falls_with_what_makes_a_face_hard_to_read(detector: FaceDetector, person: ImageArray) -> None:
    def best(image: ImageArray) -> float:
        return max((quality(image, face) for face in detector.detect(image)[:1]), default=0.0)

    frame = scene((person, 1.3, 100, 50))
    near = best(frame)
    assert near > 0.4
    assert near > 1.1 * best(scene((person, 0.6, 100, 50)))
    assert near > 1.3 * best(cv2.GaussianBlur(frame, (0, 0), 7))
    assert near > 1.5 * best((frame * 0.1).astype(np.uint8))
    assert near > 1.3 * best(np.ascontiguousarray(frame[:, 100 + 169 :]))  # the nose is at the edge


def drawn(opening: float, light: float = 1.0, size: float = 1.0, angle: float = 0.0) -> tuple[ImageArray, FaceBox]:
    """A face whose mouth is open by so many pixels, with its landmarks where those of ``POINTS`` are."""
    image = np.full((250, 250), 180, np.uint8)
    for x, y in POINTS[:2]:
        cv2.circle(image, (round(float(x)), round(float(y))), 5, 40, -1)
    cv2.line(image, (116, 146), (148, 146), 90, 2)
    cv2.ellipse(image, (132, 148), (14, round(opening)), 0, 0, 360, 20, -1)
    turn = cv2.getRotationMatrix2D((132, 125), angle, size)
    image = (cv2.warpAffine(image, turn, (250, 250), borderMode=cv2.BORDER_REPLICATE) * light).astype(np.uint8)
    return image, FaceBox(82, 65, 100, 100, 0.9, (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32))


def test_a_mouth_that_opens() -> None:
    closed, little, wide = (mouth_opening(*drawn(opening)) for opening in (0, 3, 7))
    assert 0 <= closed < little - 0.03 < wide - 0.1 < 1
    for changed in ({"light": 0.5}, {"angle": 25}, {"size": 0.5}):
        assert mouth_opening(*drawn(7, **changed)) == pytest.approx(wide, abs=0.07), changed
        assert mouth_opening(*drawn(0, **changed)) == pytest.approx(closed, abs=0.03), changed
    image, face = drawn(7)
    assert mouth_opening(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), face) == pytest.approx(wide, abs=0.01)


def test_a_mouth_of_which_nothing_can_be_told() -> None:
    image, face = drawn(7)
    assert face.landmarks is not None
    assert math.isnan(mouth_opening(image, FaceBox(82, 65, 100, 100, 0.9)))
    assert math.isnan(mouth_opening(image, WholeImage().detect(image)[0]))
    assert math.isnan(mouth_opening(np.zeros_like(image), face))
    assert math.isnan(mouth_opening(image[:150], face))  # the chin is outside
    assert math.isnan(mouth_opening(*drawn(7, size=0.2)))
    aside = face.landmarks.copy()
    aside[2, 0] = 160  # the nose
    assert math.isnan(mouth_opening(image, FaceBox(82, 65, 100, 100, 0.9, aside)))
    assert mouth_opening(np.full_like(image, 100), face) == 0


@pytest.mark.parametrize("clip", ["01-01-01-01-01-01-01.mp4", "01-01-01-01-02-01-01.mp4"])
def test_the_lips_of_a_real_speaker(detector: FaceDetector, clip: str) -> None:
    """They move while he or she speaks, and rest before and after."""
    file = DATA / "audio_visual/ravdess_actor01_full" / clip
    if not file.is_file():
        pytest.skip(f"there is no {file} (SYNCTVA_DATA)")
    if detector.name.startswith("haar"):
        pytest.skip("the cascade gives no landmarks")
    with av.open(str(file)) as video:
        images = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
    openings = np.array([mouth_opening(image, detector.detect(image)[0]) for image in images])
    assert np.isfinite(openings).all()
    deviations = np.lib.stride_tricks.sliding_window_view(openings, 12).std(1)
    middle = len(deviations) // 2
    rests = max(deviations[0], deviations[-1])
    assert deviations[middle - 15 : middle + 15].max() > 3 * rests
