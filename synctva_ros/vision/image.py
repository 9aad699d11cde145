"""What every part that looks at images needs: OpenCV, a check of the array, grey values."""

from __future__ import annotations

from typing import Any

import numpy as np

from synctva_ros.events import ImageArray


def import_cv2() -> Any:
    """OpenCV.

    Raises:
        ImportError: It is missing; the message says how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"face: OpenCV cannot be imported ({error}); install it with: pip install 'opencv-python-headless<5'"
        ) from error
    return cv2


def check_image(image: ImageArray) -> None:
    """Check an array that came from outside.

    Raises:
        ValueError: It is not a BGR or grey image of bytes, or has no pixels.
    """
    shape, kind = np.shape(image), getattr(image, "dtype", type(image).__name__)
    grey_or_bgr = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if kind != np.uint8 or not grey_or_bgr or 0 in shape:
        raise ValueError(f"face: image has shape {shape} and type {kind}; give uint8 BGR [h, w, 3] or grey [h, w]")


def to_grey(cv2: Any, image: ImageArray) -> ImageArray:
    """Grey values ``[h, w]``; a grey image is returned as it is."""
    if image.ndim == 2:
        return image
    grey: ImageArray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return grey
