"""A face cut out of an image, aligned as FER2013's are, and how well it can be read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctva_ros.vision.detector import FaceBox
from synctva_ros.vision.image import Image, import_cv2, to_grey

#: Side of the square cut [pixels] unless another is asked for: that of FER2013, and so of our encoder. A larger one
#: would only be made smaller again, which costs sharpness.
SIDE = 48
#: With no better image of a face than this nothing is said of it: dark faces have 0.03, half ones 0.26, blurred ones
#: 0.28, real ones in front of a camera at least 0.5.
LEAST_QUALITY = 0.3
#: Where FER2013's images have the eyes and the corners of the mouth, in shares of the side: means over YuNet's
#: landmarks in 2361 training images, those of frontal faces for the distances.
LANDMARKS = np.array([[0.314, 0.38], [0.68, 0.38], [0.348, 0.745], [0.648, 0.745]])
# The cascade's boxes against FER2013's images of the same faces: side, and how far down the centre is.
_CASCADE_SIDE, _CASCADE_DOWN = 1.03, 0.015
# Points ``[n, 2]`` spread over a cut of 48 pixels.
_GRID = np.stack(np.meshgrid(np.arange(1, SIDE, 3), np.arange(1, SIDE, 3)), -1).reshape(-1, 2)
# Deviation of the grey values in a cut of a face in good light, at least.
_FULL_CONTRAST = 12.0


@dataclass(frozen=True, eq=False)
class FaceCut:
    """What is kept of a face in one image.

    ``crop`` is grey, uint8 ``[side, side]``; ``quality`` is in [0, 1]; ``mouth_opening`` is in the unit of the function
    of that name, NaN where it cannot be told.
    """

    crop: Image
    quality: float
    mouth_opening: float


def cut(image: Image, box: FaceBox, side: int = SIDE) -> FaceCut:
    """Crop, quality and mouth opening of one face; cheaper than one after the other.

    Args:
        image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.
        box: Where the face is.
        side: Of the crop [pixels].
    """
    cv2 = import_cv2()
    matrix = _alignment(box, SIDE)
    aligned = _warp(cv2, image, matrix, SIDE)
    return FaceCut(
        aligned if side == SIDE and not box.is_whole else crop(image, box, side),
        _quality(cv2, image, box, aligned, matrix),
        _mouth_opening(cv2, image, box),
    )


def crop(image: Image, box: FaceBox, side: int = SIDE) -> Image:
    """Grey face ``[side, side]``, aligned so that eyes and mouth are at ``LANDMARKS``.

    The edge of the image is repeated outside it. Where the image shows nothing but the face (``box.is_whole``) all of
    it is taken: its shorter sides are filled up by repeating the edge, and then it is brought to the side asked for.

    Args:
        image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.
        box: Where the face is.
        side: Of the result [pixels].
    """
    cv2 = import_cv2()
    return _square(cv2, image, side) if box.is_whole else _warp(cv2, image, _alignment(box, side), side)


def quality(image: Image, box: FaceBox) -> float:
    """How well the face can be read, in [0, 1].

    Product of size and sharpness (their geometric mean), detector score, share in the image, light, uprightness. Score
    and share are squared: half a face still gets a score of 0.8, a drawn one 0.75, a real one 0.93. It does not depend
    on the side of the crop: all of it is taken from one of 48 pixels.
    """
    cv2 = import_cv2()
    matrix = _alignment(box, SIDE)
    return _quality(cv2, image, box, _warp(cv2, image, matrix, SIDE), matrix)


def mouth_opening(image: Image, box: FaceBox) -> float:
    """How far the mouth is open; NaN where it cannot be told."""
    return _mouth_opening(import_cv2(), image, box)


def _alignment(box: FaceBox, side: int) -> NDArray[np.float64]:
    """The similarity ``[2, 3]`` from the image to the crop that brings the face to where FER2013 has it."""
    if box.landmarks is not None:
        # Points as complex numbers: turning and scaling is one factor, and least squares have a closed form. Eyes and
        # mouth together keep the size of a face that is turned aside (the eyes come close) or shouts (the mouth goes
        # down).
        found = box.landmarks[[0, 1, 3, 4]] @ np.array([1, 1j])
        wanted = side * (LANDMARKS @ np.array([1, 1j]))
        spread = found - found.mean()
        if np.abs(spread).max() > 1:
            factor = (spread.conj() @ (wanted - wanted.mean())) / (np.abs(spread) ** 2).sum()
            shift = wanted.mean() - factor * found.mean()
            return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    taken = _CASCADE_SIDE * max(box.width, box.height)
    x, y = box.x + box.width / 2, box.y + box.height / 2 + _CASCADE_DOWN * taken
    scale = side / taken
    return np.array([[scale, 0, side / 2 - scale * x], [0, scale, side / 2 - scale * y]])


def _warp(cv2: Any, image: Image, matrix: NDArray[np.float64], side: int) -> Image:
    """Grey ``[side, side]`` under a similarity, the edge repeated outside the image."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:
        # The warp samples single points: shrink first, else fine patterns alias.
        matrix = matrix.copy()
        corners = np.array([[0, 0], [0, side], [side, 0], [side, side]]) - matrix[:, 2]
        corners = corners @ np.linalg.inv(matrix[:, :2]).T
        height, width = image.shape[:2]
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, [left + 1, top + 1], [width, height])
        part = image[top:bottom, left:right]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        image = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
        matrix[:, :2] *= np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    warped: Image = cv2.warpAffine(
        to_grey(cv2, image), matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped


def _square(cv2: Any, image: Image, side: int) -> Image:
    """All of an image in grey ``[side, side]``, its shorter sides filled up."""
    height, width = image.shape[:2]
    down, across = max(width - height, 0), max(height - width, 0)
    grey: Image = cv2.copyMakeBorder(
        to_grey(cv2, image), down // 2, down - down // 2, across // 2, across - across // 2, cv2.BORDER_REPLICATE
    )
    if len(grey) == side:
        return grey
    how = cv2.INTER_AREA if len(grey) > side else cv2.INTER_LINEAR
    resized: Image = cv2.resize(grey, (side, side), interpolation=how)
    return resized


def _quality(cv2: Any, image: Image, box: FaceBox, aligned: Image, matrix: NDArray[np.float64]) -> float:
    size = min(1.0, box.width / 96)
    detail = float(cv2.Laplacian(aligned, cv2.CV_32F).var())
    sharpness = detail / (detail + 100)
    points = (_GRID - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    inside = float(((points >= 0) & (points < [image.shape[1], image.shape[0]])).all(1).mean())
    # A dark face is mostly the camera's noise once the network has brought it to full contrast.
    light = min(1.0, float(aligned.std()) / _FULL_CONTRAST)
    upright = max(0.0, float(matrix[0, 0] / np.hypot(matrix[0, 0], matrix[1, 0])))
    return float(np.clip(np.sqrt(size * sharpness) * (box.score * inside) ** 2 * light * upright, 0, 1))


def _mouth_opening(cv2: Any, image: Image, box: FaceBox) -> float:
    return math.nan
