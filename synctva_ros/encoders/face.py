"""Faces in camera frames → one vector per utterance: detection, tracking over time, appearance descriptor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctva_ros.types import NANOSECONDS, FloatArray

Image = NDArray[np.uint8]
# x, y, width, height, score, landmarks
_Box = tuple[float, float, float, float, float, FloatArray | None]

#: Side of the stored square face pictures, in pixels.
CROP_SIZE = 64
# Detection runs on a copy whose longest side is this, in pixels.
_DETECTION_SIZE = 320
_MIN_FACE = 24
# Least overlap (intersection over union) of a box with the tracked face's last one.
_SAME_FACE = 0.2
_CASCADE = "haarcascade_frontalface_alt2.xml"
# YuNet's boxes reach from hairline to chin. This share of the longer side puts the eyes where they are in FER2013's
# pictures and in the cascade's boxes (distance of the eyes 0.36 of the side).
_YUNET_SIDE = 0.94


@dataclass(frozen=True, eq=False)
class FaceBox:
    """A face in pixels of the full picture; ``score`` is in [0, 1].

    ``landmarks`` is ``[5, 2]``: the eye on the picture's left, the other eye, nose, the mouth's corners; None if the
    detector gives none.
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    landmarks: FloatArray | None = None

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height


@dataclass(frozen=True, eq=False)
class FaceObservation:
    """The tracked face in one frame.

    ``stamp`` is in nanoseconds, ``quality`` in [0, 1], ``crop`` is grey ``[64, 64]``.
    """

    stamp: int
    face_id: str
    box: FaceBox
    quality: float
    crop: Image


class FaceDetector:
    """Faces in a picture: YuNet (Wu et al. 2023) if its file is given, else OpenCV's Haar cascade (Viola, Jones 2001).

    OpenCV's thread count is left as it is. One detector belongs to one thread.
    """

    def __init__(self, model: str = "") -> None:
        """Load the detector.

        Args:
            model: Path of a YuNet ONNX file; empty for the cascade that comes with opencv-python-headless 4.

        Raises:
            ImportError: OpenCV is missing.
            ValueError: No such file, not a YuNet file, or this OpenCV has no cascades.
        """
        self._cv2 = _import_cv2()
        self._yunet: Any = None
        self._cascade: Any = None
        if model:
            if not Path(model).is_file():
                raise ValueError(f"face detector: no file {model}; give the path of a YuNet ONNX file, or nothing")
            try:
                self._yunet = self._cv2.FaceDetectorYN.create(model, "", (_DETECTION_SIZE, _DETECTION_SIZE), 0.6)
                self._yunet.detect(np.zeros((_DETECTION_SIZE, _DETECTION_SIZE, 3), np.uint8))
            except self._cv2.error as error:
                raise ValueError(f"face detector: {model} is not a YuNet ONNX file ({error})") from error
            self.name = Path(model).stem
            return
        self.name = "haar-frontalface-alt2"
        path = _find_cascade(self._cv2) if hasattr(self._cv2, "CascadeClassifier") else None
        if path is None:
            raise ValueError(
                f"face detector: OpenCV {self._cv2.__version__} comes without Haar cascades; install "
                "'opencv-python-headless<5' or give the path of a YuNet ONNX file"
            )
        self._cascade = self._cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise ValueError(f"face detector: cannot read {path}; reinstall OpenCV")

    def detect(self, image: Image) -> list[FaceBox]:
        """Faces in a BGR ``[h, w, 3]`` or grey ``[h, w]`` picture, largest first.

        The cascade needs upright frontal faces at least a thirteenth of the picture's longest side wide; YuNet finds
        smaller, turned and dark ones.

        Raises:
            ValueError: Not such a picture.
        """
        _check_image(image)
        cv2 = self._cv2
        scale = min(1.0, _DETECTION_SIZE / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        boxes = self._run_yunet(small) if self._yunet is not None else self._run_cascade(small)
        ratio = np.array([image.shape[1] / size[0], image.shape[0] / size[1]], np.float32)
        found = [
            FaceBox(
                float(x * ratio[0]),
                float(y * ratio[1]),
                float(width * ratio[0]),
                float(height * ratio[1]),
                score,
                None if landmarks is None else landmarks * ratio,
            )
            for x, y, width, height, score, landmarks in boxes
        ]
        return sorted(found, key=lambda box: -box.area)

    def _run_yunet(self, image: Image) -> list[_Box]:
        if image.ndim == 2:
            image = self._cv2.cvtColor(image, self._cv2.COLOR_GRAY2BGR)
        self._yunet.setInputSize((image.shape[1], image.shape[0]))
        rows = self._yunet.detect(image)[1]
        if rows is None:
            return []
        return [
            (float(row[0]), float(row[1]), float(row[2]), float(row[3]), float(row[14]), row[4:14].reshape(5, 2))
            for row in rows
        ]

    def _run_cascade(self, image: Image) -> list[_Box]:
        boxes, counts = self._cascade.detectMultiScale2(
            _grey(self._cv2, image), scaleFactor=1.2, minNeighbors=2, minSize=(_MIN_FACE, _MIN_FACE)
        )
        # This cascade's own weights hardly differ between faces; how many windows agree on a face does tell.
        return [
            (float(x), float(y), float(width), float(height), float(count / (count + 5)), None)
            for (x, y, width, height), count in zip(boxes, np.ravel(counts), strict=True)
        ]


class FaceTrack:
    """Follows one face through the frames of a camera and remembers it for a while.

    The largest face starts a track; it goes on with the box that overlaps its last one, whoever else comes closer.
    While it is hidden nobody takes its place; after ``lost_after`` seconds the largest face starts a track with a new
    id (REP-155: short, starts with a letter, transient). ``observe`` and ``between`` may be called from two threads.
    """

    def __init__(
        self, detector: FaceDetector, seconds: float = 90.0, max_frames: int = 3000, lost_after: float = 1.0
    ) -> None:
        """Start without a face.

        Args:
            detector: Finds the faces.
            seconds: How long frames are remembered, reckoned from the newest.
            max_frames: How many frames are remembered at most.
            lost_after: Seconds without the face that end its track.

        Raises:
            ValueError: A limit is not positive.
        """
        for what, value in (("seconds", seconds), ("max_frames", max_frames), ("lost_after", lost_after)):
            if not value > 0:
                raise ValueError(f"face track: {what} is {value}; give a positive number")
        self._cv2 = _import_cv2()
        self._detector = detector
        self._keep = round(seconds * NANOSECONDS)
        self._lost_after = round(lost_after * NANOSECONDS)
        self._frames: deque[tuple[int, FaceObservation | None]] = deque(maxlen=max_frames)
        self._lock = threading.Lock()
        self._current: FaceObservation | None = None
        self._newest: int | None = None
        self._tracks = 0
        self._faces = 0

    @property
    def faces(self) -> int:
        """Number of faces in the newest frame."""
        return self._faces

    def observe(self, stamp_ns: int, image: Image) -> FaceObservation | None:
        """Take the next frame; returns the tracked face, or None if it is not in it.

        Args:
            stamp_ns: Time of the frame, after the previous one's.
            image: BGR ``[h, w, 3]`` or grey ``[h, w]``, uint8.

        Raises:
            ValueError: Not such a picture, or the time does not advance.
        """
        if self._newest is not None and stamp_ns <= self._newest:
            raise ValueError(
                f"face track: frame at {stamp_ns} ns after one at {self._newest} ns; drop it, or call clear() if the "
                "clock was set back"
            )
        boxes = self._detector.detect(image)
        box, face_id = self._follow(stamp_ns, boxes)
        observation = None
        if box is not None:
            crop = _crop(self._cv2, image, box)
            observation = FaceObservation(stamp_ns, face_id, box, _quality(self._cv2, box, crop), crop)
        with self._lock:
            self._newest = stamp_ns
            self._faces = len(boxes)
            self._current = observation or self._current
            self._frames.append((stamp_ns, observation))
            while self._frames[0][0] < stamp_ns - self._keep:
                self._frames.popleft()
        return observation

    def between(self, start_ns: int, end_ns: int) -> tuple[int, list[FaceObservation]]:
        """Remembered frames from ``start_ns`` to ``end_ns`` (both included): how many, and the face in them."""
        with self._lock:
            inside = [observation for stamp, observation in self._frames if start_ns <= stamp <= end_ns]
        return len(inside), [observation for observation in inside if observation is not None]

    def clear(self) -> None:
        """Forget all frames and the face, as after a jump of the clock; ids go on counting."""
        with self._lock:
            self._frames.clear()
            self._current = None
            self._newest = None
            self._faces = 0

    def _follow(self, stamp: int, boxes: list[FaceBox]) -> tuple[FaceBox | None, str]:
        current = self._current
        if current is not None and stamp - current.stamp <= self._lost_after:
            best = max(boxes, key=lambda box: _overlap(box, current.box), default=None)
            if best is not None and _overlap(best, current.box) >= _SAME_FACE:
                return best, current.face_id
            return None, ""
        if not boxes:
            return None, ""
        self._tracks += 1
        return boxes[0], f"f{self._tracks}"


class FaceEncoder:
    """Appearance of a face: histograms of oriented gradients (Dalal and Triggs 2005) on the equalised picture."""

    name = "face-hog-1"

    def __init__(self) -> None:
        """Prepare the descriptor.

        Raises:
            ImportError: OpenCV is missing.
            ValueError: This OpenCV has no HOGDescriptor.
        """
        self._cv2 = _import_cv2()
        if not hasattr(self._cv2, "HOGDescriptor"):
            raise ValueError(
                f"face encoder: OpenCV {self._cv2.__version__} has no HOGDescriptor; install 'opencv-python-headless<5'"
            )
        self._hog = self._cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9)
        self._clahe = self._cv2.createCLAHE(2.0, (4, 4))
        self.width: int = int(self._hog.getDescriptorSize())

    def encode_crop(self, grey: Image) -> FloatArray:
        """Vector ``[width]`` of a tight grey face picture ``[h, w]`` of any size.

        Raises:
            ValueError: Not such a picture.
        """
        _check_image(grey)
        if grey.ndim != 2:
            raise ValueError(f"face encoder: crop has shape {grey.shape}; give a grey picture [h, w]")
        cv2 = self._cv2
        shrinks = min(grey.shape) > 48
        small = cv2.resize(grey, (48, 48), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.asarray(self._hog.compute(self._clahe.apply(small)), np.float32).ravel()

    def encode(self, observations: Sequence[FaceObservation]) -> FloatArray:
        """Mean ``[width]`` over the frames of an utterance, weighted with their quality.

        Raises:
            ValueError: No observations; the modality is missing then.
        """
        if not observations:
            raise ValueError("face encoder: no observations; leave the vision modality out of this utterance")
        vectors = np.stack([self.encode_crop(observation.crop) for observation in observations])
        # The offset keeps a run of poor frames from dividing by zero.
        weights = np.array([observation.quality for observation in observations], np.float32) + 1e-3
        return np.asarray(weights @ vectors / weights.sum(), np.float32)


def _import_cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"face: OpenCV cannot be imported ({error}); install it with: pip install 'opencv-python-headless<5'"
        ) from error
    return cv2


def _find_cascade(cv2: Any) -> Path | None:
    """Where OpenCV's cascade is: PyPI's wheel has it in itself, Debian and Ubuntu in opencv-data."""
    wheel = [Path(cv2.data.haarcascades)] if hasattr(cv2, "data") else []
    for folder in [*wheel, Path("/usr/share/opencv4/haarcascades")]:
        if (folder / _CASCADE).is_file():
            return folder / _CASCADE
    return None


def _check_image(image: Image) -> None:
    shape, kind = np.shape(image), getattr(image, "dtype", type(image).__name__)
    grey_or_bgr = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if kind != np.uint8 or not grey_or_bgr or 0 in shape:
        raise ValueError(f"face: image has shape {shape} and type {kind}; give uint8 BGR [h, w, 3] or grey [h, w]")


def _grey(cv2: Any, image: Image) -> Image:
    if image.ndim == 2:
        return image
    grey: Image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return grey


def _crop(cv2: Any, image: Image, box: FaceBox) -> Image:
    """Square grey picture of the face, eyes level if landmarks are known, the edge repeated outside the image."""
    angle, side = 0.0, max(box.width, box.height)
    if box.landmarks is not None:
        across, down = box.landmarks[1] - box.landmarks[0]
        angle = float(np.degrees(np.arctan2(down, across)))
        side *= _YUNET_SIDE
    centre = (box.x + box.width / 2, box.y + box.height / 2)
    scale = CROP_SIZE / side
    if scale < 1:
        # The warp samples single points: shrink first, else fine patterns alias.
        left, top = max(int(centre[0] - side), 0), max(int(centre[1] - side), 0)
        right, bottom = int(centre[0] + side) + 1, int(centre[1] + side) + 1
        part = image[top:bottom, left:right]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        centre = ((centre[0] - left) * size[0] / part.shape[1], (centre[1] - top) * size[1] / part.shape[0])
        image, scale = cv2.resize(part, size, interpolation=cv2.INTER_AREA), 1.0
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += CROP_SIZE / 2 - np.array(centre)
    crop: Image = cv2.warpAffine(
        _grey(cv2, image), matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop


def _quality(cv2: Any, box: FaceBox, crop: Image) -> float:
    """Geometric mean of size, sharpness and detector score, each in [0, 1]."""
    size = min(1.0, box.width / 96)
    detail = float(cv2.Laplacian(crop, cv2.CV_32F).var())
    sharpness = detail / (detail + 100)
    return float(np.clip(size * sharpness * box.score, 0, 1) ** (1 / 3))


def _overlap(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (a.area + b.area - shared)
