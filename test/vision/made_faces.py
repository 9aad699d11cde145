"""Images with faces where a test wants them, and a detector that says what it is told."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from synctva_ros.events import ImageArray
from synctva_ros.vision.detector import FaceBox, FaceDetector

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[3] / "shared/data"))
SECOND = 1_000_000_000
FRAME: ImageArray = np.random.default_rng(1).integers(0, 256, (480, 640), np.uint8)
#: Eyes, nose and corners of the mouth of the fixture ``person``.
POINTS = np.array([[112, 105], [152, 105], [132, 128], [116, 146], [148, 146]], np.float32)


class Script(FaceDetector):
    """Gives the boxes it is told instead of looking."""

    def __init__(self) -> None:
        self.boxes: list[FaceBox] = []

    def detect(self, image: ImageArray) -> list[FaceBox]:
        return sorted(self.boxes, key=lambda box: -box.area)


def box(x: float, side: float = 100, y: float = 100) -> FaceBox:
    return FaceBox(x, y, side, side, 0.9)


def centre(box: FaceBox) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


def scene(*people: tuple[ImageArray, float, int, int]) -> ImageArray:
    """Grey image ``[480, 640, 3]`` with people (image, scale, left, top)."""
    frame = np.full((480, 640, 3), 128, np.uint8)
    for image, scale, left, top in people:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame
