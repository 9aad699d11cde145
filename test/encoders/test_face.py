"""Face detection, tracking over time, and the appearance descriptor."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from synctva_ros.encoders import face
from synctva_ros.encoders.face import FaceBox, FaceDetector, FaceEncoder, FaceObservation, FaceTrack, Image

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def person() -> Image:
    """Head and shoulders, BGR ``[250, 250, 3]``; the face is around (130, 115), some 110 wide."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut()[0:250, 95:345, ::-1])


def scene(*people: tuple[Image, float, int, int]) -> Image:
    """Grey picture ``[480, 640, 3]`` with people (picture, scale, left, top)."""
    frame = np.full((480, 640, 3), 128, np.uint8)
    for picture, scale, left, top in people:
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame


def centre(box: FaceBox) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


@pytest.mark.parametrize(("scale", "left", "top"), [(1.8, 20, 10), (1.0, 380, 220), (1.0, 0, 0), (0.6, 300, 100)])
def test_finds_a_face(detector: FaceDetector, person: Image, scale: float, left: int, top: int) -> None:
    frame = scene((person, scale, left, top))
    for image in (frame, cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)):
        (box,) = detector.detect(image)
        x, y = centre(box)
        assert abs(x - (left + 130 * scale)) < 20 * scale
        assert abs(y - (top + 115 * scale)) < 25 * scale
        assert 70 * scale < box.width < 170 * scale
        assert 0 < box.score <= 1


def test_full_size_pictures(detector: FaceDetector, person: Image) -> None:
    frame = cv2.resize(scene((person, 1.0, 200, 100)), (1920, 1440))
    (box,) = detector.detect(frame)
    assert abs(centre(box)[0] - 3 * 330) < 60


def test_no_face_in_blank_or_noise(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    for image in (noise, np.zeros((480, 640), np.uint8), np.full((480, 640), 255, np.uint8), np.ones((1, 1), np.uint8)):
        assert detector.detect(image) == []


def test_largest_first(detector: FaceDetector, person: Image) -> None:
    boxes = detector.detect(scene((person, 0.7, 10, 10), (person, 1.3, 280, 100)))
    assert len(boxes) == 2
    assert boxes[0].area > boxes[1].area
    assert boxes[0].x > 280


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((48, 64), np.float32),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 1), np.uint8),
        np.zeros((0, 64), np.uint8),
        np.zeros(64, np.uint8),
        None,
    ],
)
def test_unsupported_images_are_named(detector: FaceDetector, image: Image) -> None:
    with pytest.raises(ValueError, match=r"image has shape \(.* and type .*give uint8"):
        detector.detect(image)
    with pytest.raises(ValueError, match="give uint8"):
        FaceEncoder().encode_crop(image)


def test_wrong_model_files_are_named(tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"no file .*nowhere\.onnx"):
        FaceDetector("nowhere.onnx")
    broken = f"{tmp_path}/broken.onnx"
    with open(broken, "wb") as file:
        file.write(b"not a network")
    with pytest.raises(ValueError, match="is not a YuNet ONNX file"):
        FaceDetector(broken)


def test_opencv_without_cascades_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_import_cv2", lambda: SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(ValueError, match=r"5\.0\.0 comes without Haar cascades.*opencv-python-headless<5"):
        FaceDetector()
    with pytest.raises(ValueError, match=r"5\.0\.0 has no HOGDescriptor"):
        FaceEncoder()


class Script(FaceDetector):
    """Gives the boxes it is told instead of looking."""

    def __init__(self) -> None:
        self.boxes: list[FaceBox] = []

    def detect(self, image: Image) -> list[FaceBox]:
        return sorted(self.boxes, key=lambda box: -box.area)


def box(x: float, side: float = 100, y: float = 100) -> FaceBox:
    return FaceBox(x, y, side, side, 0.9)


FRAME = np.random.default_rng(1).integers(0, 256, (480, 640), np.uint8)


def test_track_on_pictures(detector: FaceDetector, person: Image) -> None:
    track = FaceTrack(detector)
    ids = set()
    for i in range(6):
        seen = track.observe(i * SECOND // 10, scene((person, 1.0, 10 + 15 * i, 100), (person, 0.6, 450, 100)))
        assert seen is not None
        assert track.faces == 2
        assert seen.crop.shape == (64, 64)
        assert seen.crop.dtype == np.uint8
        assert 0 < seen.quality <= 1
        ids.add(seen.face_id)
    assert ids == {"f1"}


def test_stays_with_its_face_when_a_larger_one_comes() -> None:
    script = Script()
    track = FaceTrack(script)
    for i in range(20):
        own = box(50 + 5 * i)
        script.boxes = [own, box(400, 200)] if i >= 5 else [own]
        seen = track.observe(i * SECOND // 10, FRAME)
        assert seen is not None
        assert seen.box is own
        assert seen.face_id == "f1"
        assert track.faces == len(script.boxes)


def test_hidden_face_keeps_its_id_lost_face_does_not() -> None:
    script = Script()
    track = FaceTrack(script)
    script.boxes = [box(50), box(400, 80)]
    first = track.observe(0, FRAME)
    # Hidden for less than a second: nobody takes the place.
    script.boxes = [box(400, 80)]
    assert track.observe(SECOND // 2, FRAME) is None
    assert track.faces == 1
    script.boxes = [box(55)]
    again = track.observe(SECOND, FRAME)
    # Lost for more than a second: the other one, under a new id.
    script.boxes = [box(400, 80)]
    assert track.observe(SECOND * 3 // 2, FRAME) is None
    other = track.observe(SECOND * 2 + 1, FRAME)
    script.boxes = []
    assert track.observe(SECOND * 4, FRAME) is None
    script.boxes = [box(400, 80)]
    later = track.observe(SECOND * 5, FRAME)
    ids = [seen.face_id if seen else None for seen in (first, again, other, later)]
    assert ids == ["f1", "f1", "f2", "f3"]


def test_between_counts_frames_with_and_without_a_face() -> None:
    script = Script()
    track = FaceTrack(script)
    for i in range(10):
        script.boxes = [box(50)] if i % 2 else []
        track.observe(i * 100, FRAME)
    seen, observations = track.between(300, 700)
    assert seen == 5
    assert [observation.stamp for observation in observations] == [300, 500, 700]
    assert track.between(5000, 6000) == (0, [])


def test_memory_is_bounded_in_time_and_number() -> None:
    script = Script()
    script.boxes = [box(50)]
    by_time = FaceTrack(script, seconds=2)
    by_number = FaceTrack(script, max_frames=7)
    for i in range(50):
        by_time.observe(i * SECOND // 10, FRAME)
        by_number.observe(i * SECOND // 10, FRAME)
    assert by_time.between(0, SECOND * 100)[0] == 21
    assert by_number.between(0, SECOND * 100)[0] == 7
    # A long pause leaves only the newest frame.
    by_time.observe(SECOND * 1000, FRAME)
    assert by_time.between(0, SECOND * 2000)[0] == 1


def test_time_must_advance_until_cleared() -> None:
    script = Script()
    script.boxes = [box(50)]
    track = FaceTrack(script)
    track.observe(100, FRAME)
    for stamp in (100, 50):
        with pytest.raises(ValueError, match=r"frame at \d+ ns after one at 100 ns"):
            track.observe(stamp, FRAME)
    assert track.between(0, 1000)[0] == 1
    track.clear()
    assert track.faces == 0
    assert track.between(0, 1000) == (0, [])
    seen = track.observe(50, FRAME)
    assert seen is not None
    assert seen.face_id == "f2"


@pytest.mark.parametrize("limit", ["seconds", "max_frames", "lost_after"])
def test_limits_must_be_positive(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        FaceTrack(Script(), **{limit: 0})


def test_reading_while_frames_come_in() -> None:
    script = Script()
    script.boxes = [box(50)]
    track = FaceTrack(script, max_frames=500)
    errors: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                track.between(0, SECOND)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1500):
        track.observe(i, FRAME)
    done.set()
    reader.join()
    assert not errors


def test_crop_shows_the_box_and_repeats_the_edge() -> None:
    image = np.zeros((200, 300), np.uint8)
    image[50:150, 100:200] = 200
    script = Script()
    track = FaceTrack(script)
    script.boxes = [box(100, y=50)]
    inside = track.observe(1, image)
    assert inside is not None
    assert inside.crop[4:-4, 4:-4].min() == 200
    script.boxes = [box(110, y=50)]
    half = track.observe(2, np.fliplr(np.tile(np.arange(200, dtype=np.uint8), (200, 1))))
    assert half is not None
    assert half.crop[0, 0] > half.crop[0, -1]


def test_crop_levels_the_eyes(person: Image) -> None:
    """With landmarks, a tilted head gives nearly the crop of the upright one."""
    points = np.array([[112, 105], [152, 105], [132, 128], [116, 146], [148, 146]], np.float32)

    def crop(image: Image, landmarks: np.ndarray | None) -> np.ndarray:
        return face._crop(cv2, image, FaceBox(82, 65, 100, 100, 0.9, landmarks)).astype(float)

    turn = cv2.getRotationMatrix2D((132, 115), 20, 1)
    tilted = cv2.warpAffine(person, turn, person.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    tilted_points = (points @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    upright = crop(person, points)
    levelled = np.corrcoef(upright.ravel(), crop(tilted, tilted_points).ravel())[0, 1]
    as_is = np.corrcoef(upright.ravel(), crop(tilted, None).ravel())[0, 1]
    assert levelled > 0.97 > as_is


def test_quality_falls_with_size_and_blur(detector: FaceDetector, person: Image) -> None:
    def quality(image: Image) -> float:
        seen = FaceTrack(detector).observe(0, image)
        assert seen is not None
        return seen.quality

    near = quality(scene((person, 1.3, 100, 50)))
    assert near > quality(scene((person, 0.6, 100, 50)))
    assert near > quality(cv2.GaussianBlur(scene((person, 1.3, 100, 50)), (0, 0), 4))


def observation(crop: Image, quality: float) -> FaceObservation:
    return FaceObservation(0, "f1", box(0), quality, crop)


def test_vector_of_crops(person: Image) -> None:
    encoder = FaceEncoder()
    assert encoder.name == "face-hog-1"
    grey = cv2.cvtColor(person[60:170, 77:187], cv2.COLOR_BGR2GRAY)
    vector = encoder.encode_crop(grey)
    assert vector.shape == (encoder.width,)
    assert encoder.width <= 1000
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    # Size and light hardly matter, another picture does.
    other = encoder.encode_crop(np.ascontiguousarray(grey[::-1]))
    for changed in (cv2.resize(grey, (48, 48), interpolation=cv2.INTER_AREA), (grey // 2 + 20).astype(np.uint8)):
        assert np.abs(encoder.encode_crop(changed) - vector).mean() < 0.4 * np.abs(other - vector).mean()
    assert np.isfinite(encoder.encode_crop(np.zeros((64, 64), np.uint8))).all()
    assert encoder.encode_crop(np.zeros((1, 1), np.uint8)).shape == (encoder.width,)


def test_colour_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop has shape \(64, 64, 3\); give a grey"):
        FaceEncoder().encode_crop(np.zeros((64, 64, 3), np.uint8))


def test_mean_follows_quality() -> None:
    encoder = FaceEncoder()
    rng = np.random.default_rng(2)
    sharp, poor = (rng.integers(0, 256, (64, 64), np.uint8) for _ in range(2))
    a, b = encoder.encode_crop(sharp), encoder.encode_crop(poor)
    mean = encoder.encode([observation(sharp, 0.9), observation(poor, 0.1)])
    assert mean.shape == (encoder.width,)
    assert np.abs(mean - a).mean() < np.abs(mean - b).mean()
    even = encoder.encode([observation(sharp, 0.0), observation(poor, 0.0)])
    np.testing.assert_allclose(even, (a + b) / 2, atol=1e-5)


def test_no_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="leave the vision modality out"):
        FaceEncoder().encode([])
