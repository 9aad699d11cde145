"""Faces found in images, by YuNet and by the cascade."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from made_faces import centre, scene

from synctva_ros.events import ImageArray
from synctva_ros.vision import detector as module
from synctva_ros.vision.detector import (
    HAAR,
    WHOLE_IMAGE,
    FaceBox,
    FaceDetector,
    StillDetector,
    WholeImage,
    create_detector,
)

NOT_IMAGES = [
    np.zeros((48, 64), np.float32),
    np.zeros((48, 64, 4), np.uint8),
    np.zeros((48, 64, 1), np.uint8),
    np.zeros((0, 64), np.uint8),
    np.zeros(64, np.uint8),
    None,
]


@pytest.mark.parametrize(("scale", "left", "top"), [(1.8, 20, 10), (1.0, 380, 220), (1.0, 0, 0), (0.6, 300, 100)])
def test_finds_a_face(detector: FaceDetector, person: ImageArray, scale: float, left: int, top: int) -> None:
    frame = scene((person, scale, left, top))
    for image in (frame, cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)):
        (box,) = detector.detect(image)
        x, y = centre(box)
        assert abs(x - (left + 130 * scale)) < 20 * scale
        assert abs(y - (top + 115 * scale)) < 25 * scale
        assert 70 * scale < box.width < 170 * scale
        assert 0 < box.score <= 1
        assert not box.is_whole


def test_full_size_images(detector: FaceDetector, person: ImageArray) -> None:
    frame = cv2.resize(scene((person, 1.0, 200, 100)), (1920, 1440))
    (box,) = detector.detect(frame)
    assert abs(centre(box)[0] - 3 * 330) < 60


def test_no_face_in_blank_or_noise(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for image in (noise, np.zeros((480, 640), np.uint8), np.full((480, 640), 255, np.uint8), np.ones((1, 1), np.uint8)):
        assert detector.detect(image) == []


def test_largest_first(detector: FaceDetector, person: ImageArray) -> None:
    boxes = detector.detect(scene((person, 0.7, 10, 10), (person, 1.3, 280, 100)))
    assert len(boxes) == 2
    assert boxes[0].area > boxes[1].area
    assert boxes[0].x > 280


@pytest.mark.parametrize("image", NOT_IMAGES)
def test_unsupported_images_are_named(detector: FaceDetector, image: ImageArray) -> None:
    for finder in (detector, WholeImage()):
        with pytest.raises(ValueError, match=r"image has shape \(.* and type .*give uint8"):
            finder.detect(image)


def test_wrong_model_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nowhere\.onnx"):
        FaceDetector("nowhere.onnx")
    broken = f"{tmp_path}/broken.onnx"
    with open(broken, "wb") as file:
        file.write(b"not a network")
    with pytest.raises(ValueError, match="is not a YuNet ONNX file"):
        FaceDetector(broken)


def test_opencv_without_cascades_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "import_cv2", lambda: SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(ValueError, match=r"5\.0\.0 comes without Haar cascades.*opencv-python-headless<5"):
        FaceDetector(HAAR)


def test_without_a_yunet_file_the_cascade_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_yunet", lambda: None)
    assert FaceDetector().name == FaceDetector(HAAR).name == "haar-frontalface-alt"


def test_a_yunet_file_at_hand_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "yunet.onnx"
    damaged.write_bytes(b"cut short")
    monkeypatch.setattr(module, "find_yunet", lambda: damaged)
    with pytest.raises(ValueError, match=r"yunet\.onnx is not a YuNet ONNX file"):
        FaceDetector()


def test_detectors_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_detector(HAAR).name == "haar-frontalface-alt"
    assert isinstance(create_detector(WHOLE_IMAGE), WholeImage)
    assert create_detector("whole-image").name == "whole-image"
    with pytest.raises(ValueError, match=r"no file .*nowhere\.onnx"):
        create_detector("nowhere.onnx")
    monkeypatch.setattr(module, "find_yunet", lambda: None)
    assert create_detector().name == "haar-frontalface-alt"


def test_the_whole_image_is_the_face() -> None:
    for image in (np.zeros((30, 70, 3), np.uint8), np.zeros((30, 70), np.uint8)):
        (box,) = WholeImage().detect(image)
        assert (box.x, box.y, box.width, box.height, box.score) == (0, 0, 70, 30, 1)
        assert box.landmarks is None
        assert box.is_whole


def test_a_leaning_head_is_levelled(person: ImageArray, detector: FaceDetector) -> None:
    if detector.name.startswith("haar"):
        pytest.skip("the cascade knows upright faces only")
    frame = scene((person, 1.3, 100, 50))
    for angle in (-40, 40):
        turn = cv2.getRotationMatrix2D((270, 200), angle, 1)
        (box,) = detector.detect(cv2.warpAffine(frame, turn, (640, 480), borderMode=cv2.BORDER_REPLICATE))
        assert box.landmarks is not None
        across, down = box.landmarks[1] - box.landmarks[0]
        assert abs(np.degrees(np.arctan2(down, across)) + angle) < 20


def test_tiny_images(detector: FaceDetector) -> None:
    """OpenCV's YuNet finds faces of infinite size in them, after it has seen large ones."""
    for _ in range(3):
        for side in (640, 320):
            for height, width in ((1, 1), (5, 7), (31, 31), (100, 20), (20, 100)):
                assert detector.detect(np.full((side * 3 // 4, side, 3), 255, np.uint8)) == []
                assert detector.detect(np.ones((height, width), np.uint8)) == []


def test_faces_on_their_head_are_no_faces(detector: FaceDetector, person: ImageArray) -> None:
    frame = scene((person, 1.3, 100, 50))
    assert detector.detect(frame)
    assert not detector.detect(np.ascontiguousarray(frame[::-1, ::-1]))


class Counting(FaceDetector):
    """Finds one face, and counts how often it looked."""

    def __init__(self) -> None:
        self.name = "counting"
        self.looks = 0

    def detect(self, image: ImageArray) -> list[FaceBox]:
        self.looks += 1
        return [FaceBox(float(self.looks), 0.0, 10.0, 10.0, 1.0)]


def test_it_is_looked_again_only_where_something_has_changed() -> None:
    counting = Counting()
    still = StillDetector(counting)
    rng = np.random.default_rng(0)
    room = rng.integers(40, 200, (480, 640, 3)).astype(np.uint8)
    first = still.detect(room)
    for _ in range(5):  # the noise of a camera
        noisy = np.clip(room + rng.normal(0, 4, room.shape), 0, 255).astype(np.uint8)
        assert still.detect(noisy) is first
    assert counting.looks == 1
    moved = room.copy()
    moved[200:220, 300:320] = 250  # something the size of a mouth
    assert still.detect(moved)[0].x == 2.0
    assert still.detect(room)[0].x == 3.0
    assert still.detect(room[:240])[0].x == 4.0  # another size
    assert still.detect(room[:240, :, 0])[0].x == 5.0  # grey, of which the cells differ
    assert still.name == "counting"


def test_a_slow_change_is_seen_too() -> None:
    counting = Counting()
    still = StillDetector(counting)
    for step in range(31):  # one grey level at a time
        still.detect(np.full((64, 64), 100 + step, np.uint8))
    assert counting.looks == 11


def test_a_detector_by_name_does_not_look_at_the_same_image_twice(person: ImageArray) -> None:
    detector = create_detector("haar")
    assert isinstance(detector, StillDetector)
    assert detector.detect(person) is detector.detect(person.copy())
