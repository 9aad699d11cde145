"""Nodes of the street on their own, and an image of a face."""

from __future__ import annotations

import pytest


@pytest.fixture
def lab():
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from harness import laboratory

    with laboratory() as made:
        yield made


@pytest.fixture(scope="session")
def astronaut():
    """A photograph with one face, BGR ``[512, 512, 3]``."""
    data = pytest.importorskip("skimage.data", reason="scikit-image, which ships an image of a face, is not installed")
    return data.astronaut()[:, :, ::-1].copy()
