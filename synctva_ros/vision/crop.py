"""A face cut out of an image, aligned as FER2013's are, and how well it can be read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import ImageArray
from synctva_ros.vision.detector import FaceBox
from synctva_ros.vision.image import import_cv2, to_grey

Matrix = NDArray[np.floating[Any]]

#: Side of the square crop [pixels] unless another is asked for: that of FER2013, and so of our encoder. A larger one
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
# Points ``[n, 2]`` spread over a crop of 48 pixels.
_GRID = np.stack(np.meshgrid(np.arange(1, SIDE, 3), np.arange(1, SIDE, 3)), -1).reshape(-1, 2)
# A pixel beyond the corners of a crop of 48 pixels, so that rounding cannot matter.
_CORNERS = np.array([[-1, -1], [-1, SIDE], [SIDE, -1], [SIDE, SIDE]])
# Deviation of the grey values in a crop of a face in good light, at least.
_FULL_CONTRAST = 12.0
# Where the inside of an opening mouth comes to be, in shares of the side: top, bottom, left, right. It is looked at in
# an aligned face of this side [pixels].
_MOUTH = (0.68, 0.90, 0.38, 0.62)
_MOUTH_SIDE = 96
# What is bright there is the brightest tenth (skin or teeth); darker than this share of it is dark.
_BRIGHT, _DARK = 0.9, 0.8
# Nothing is said of the mouth of a face whose aligned crop has less than this side in the image [pixels], or that is
# darker than this [grey values].
_MOUTH_FACE, _MOUTH_LIGHT = 32, 24


@dataclass(frozen=True, eq=False)
class FaceCut:
    """What is kept of a face in one image.

    ``crop`` is grey, uint8 ``[side, side]``; ``quality`` is in [0, 1]; ``mouth_opening`` is as the function of that
    name gives it.
    """

    crop: ImageArray
    quality: float
    mouth_opening: float


def cut(image: ImageArray, box: FaceBox, side: int = SIDE) -> FaceCut:
    """Crop, quality and mouth opening of one face; cheaper than one after the other.

    Args:
        image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.
        box: Where the face is.
        side: Of the crop [pixels].
    """
    cv2 = import_cv2()
    place = _Place(box)
    aligned = _warp(cv2, image, place.matrix, place.inverse, SIDE, SIDE)
    return FaceCut(
        aligned if side == SIDE and not box.is_whole else crop(image, box, side),
        _quality(cv2, image, box, aligned, place),
        _mouth_opening(cv2, image, box, place),
    )


def crop(image: ImageArray, box: FaceBox, side: int = SIDE) -> ImageArray:
    """Grey face ``[side, side]``, aligned so that eyes and mouth are at ``LANDMARKS``.

    The edge of the image is repeated outside it. Where the image shows nothing but the face (``box.is_whole``) all of
    it is taken: its shorter sides are filled up by repeating the edge, and then it is brought to the side asked for.

    Args:
        image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.
        box: Where the face is.
        side: Of the result [pixels].
    """
    cv2 = import_cv2()
    if box.is_whole:
        return _square(cv2, image, side)
    matrix = _alignment(box, side)
    return _warp(cv2, image, matrix, np.linalg.inv(matrix[:, :2]), side, side)


def quality(image: ImageArray, box: FaceBox) -> float:
    """How well the face can be read, in [0, 1].

    Product of size and sharpness (their geometric mean), detector score, share in the image, light, uprightness. Score
    and share are squared: half a face still gets a score of 0.8, a drawn one 0.75, a real one 0.93. It does not depend
    on the side of the crop: all of it is taken from one of 48 pixels.
    """
    cv2 = import_cv2()
    place = _Place(box)
    return _quality(cv2, image, box, _warp(cv2, image, place.matrix, place.inverse, SIDE, SIDE), place)


def mouth_opening(image: ImageArray, box: FaceBox) -> float:
    """How dark the inside of the mouth is, in [0, 1], which follows how far it is open.

    The aligned face is looked at where the inside of an opening mouth comes to be: around the line between its corners
    and below, four fifths as wide as a mouth. A pixel there is dark if it is below 0.8 times the bright level of the
    region (its 90th percentile: skin or teeth). The measure is the mean over the region of how far pixels are below
    that, as a share of it: 0 where nothing is dark, 1 where all but the brightest is black. It has no unit, and light
    and contrast of the camera do not matter.

    Lips that are closed have a shadow too: 0.03 to 0.08 on real faces, 0.1 to 0.18 with the mouth wide open. Between
    people the levels differ as much as between open and closed, so compare a face with itself: the deviation over half
    a second tells moving from resting lips (benchmark/mouth.py). The distances between the five landmarks tell much
    less, for a detector hardly moves them when the mouth opens.

    NaN where it cannot be told: there are no landmarks, the face is turned so far aside that the nose is beyond an eye,
    the region is partly outside the image, or the face is too small (its crop has less than 32 pixels in the image) or
    too dark.

    Args:
        image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.
        box: Where the face is.
    """
    return _mouth_opening(import_cv2(), image, box, _Place(box))


class _Place:
    """Where a face is: the alignment to a crop of 48 pixels, computed once."""

    def __init__(self, box: FaceBox) -> None:
        self.matrix = _alignment(box, SIDE)
        self.inverse = np.linalg.inv(self.matrix[:, :2])
        #: Pixels of the crop for one of the image.
        self.scale = float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))


def _alignment(box: FaceBox, side: int) -> Matrix:
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


def _warp(cv2: Any, image: ImageArray, matrix: Matrix, inverse: Matrix, width: int, height: int) -> ImageArray:
    """Grey ``[height, width]`` under a similarity, the edge repeated outside the image.

    ``inverse`` is that of the matrix's first two columns.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:
        # The warp samples single points: shrink first, else fine patterns alias.
        corners = np.array([[0, 0], [0, height], [width, 0], [width, height]]) - matrix[:, 2]
        (x0, y0), (x1, y1) = (corners := corners @ inverse.T).min(0).tolist(), corners.max(0).tolist()
        bottom_most, right_most = image.shape[:2]
        left, top = min(max(math.floor(x0), 0), right_most - 1), min(max(math.floor(y0), 0), bottom_most - 1)
        right = min(max(math.ceil(x1) + 1, left + 1), right_most)
        bottom = min(max(math.ceil(y1) + 1, top + 1), bottom_most)
        part = image[top:bottom, left:right]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        image = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        matrix = matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
        matrix[:, :2] *= np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    warped: ImageArray = cv2.warpAffine(
        to_grey(cv2, image), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped


def _square(cv2: Any, image: ImageArray, side: int) -> ImageArray:
    """All of an image in grey ``[side, side]``, its shorter sides filled up."""
    height, width = image.shape[:2]
    down, across = max(width - height, 0), max(height - width, 0)
    grey: ImageArray = cv2.copyMakeBorder(
        to_grey(cv2, image), down // 2, down - down // 2, across // 2, across - across // 2, cv2.BORDER_REPLICATE
    )
    if len(grey) == side:
        return grey
    how = cv2.INTER_AREA if len(grey) > side else cv2.INTER_LINEAR
    resized: ImageArray = cv2.resize(grey, (side, side), interpolation=how)
    return resized


def _quality(cv2: Any, image: ImageArray, box: FaceBox, aligned: ImageArray, place: _Place) -> float:
    size = min(1.0, box.width / 96)
    detail = float(cv2.Laplacian(aligned, cv2.CV_32F).var())
    sharpness = detail / (detail + 100)
    # A dark face is mostly the camera's noise once the network has brought it to full contrast.
    light = min(1.0, float(aligned.std()) / _FULL_CONTRAST)
    upright = max(0.0, float(place.matrix[0, 0]) / place.scale)
    known = math.sqrt(size * sharpness) * (box.score * _share_inside(image, place)) ** 2 * light * upright
    return min(max(known, 0.0), 1.0)


def _share_inside(image: ImageArray, place: _Place) -> float:
    """Share of the crop that the image shows."""
    height, width = image.shape[:2]
    corners = (_CORNERS - place.matrix[:, 2]) @ place.inverse.T
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
    if x0 >= 0 and y0 >= 0 and x1 < width and y1 < height:
        return 1.0
    points = (_GRID - place.matrix[:, 2]) @ place.inverse.T
    return float(((points >= 0) & (points < [width, height])).all(1).mean())


def _mouth_opening(cv2: Any, image: ImageArray, box: FaceBox, place: _Place) -> float:
    if box.landmarks is None or place.scale * _MOUTH_FACE > SIDE:
        return math.nan
    nose = place.matrix[0, :2] @ box.landmarks[2] + place.matrix[0, 2]
    if not LANDMARKS[0, 0] * SIDE < nose < LANDMARKS[1, 0] * SIDE:
        return math.nan
    top, bottom, left, right = (round(share * _MOUTH_SIDE) for share in _MOUTH)
    width, height = right - left, bottom - top
    ratio = _MOUTH_SIDE / SIDE
    matrix, inverse = place.matrix * ratio, place.inverse / ratio
    matrix[:, 2] -= (left, top)
    corners = (np.array([[0, 0], [0, height], [width, 0], [width, height]]) - matrix[:, 2]) @ inverse.T
    if corners.min() < 0 or (corners.max(0) > [image.shape[1], image.shape[0]]).any():
        return math.nan
    pixels = np.sort(_warp(cv2, image, matrix, inverse, width, height), axis=None)
    bright = float(pixels[int(_BRIGHT * pixels.size)])
    if bright < _MOUTH_LIGHT:
        return math.nan
    dark = pixels[: np.searchsorted(pixels, _DARK * bright)]
    return float(dark.size - dark.sum() / (_DARK * bright)) / pixels.size
