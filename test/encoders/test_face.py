"""The network that reads an expression off a crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.events import EMOTIONS, ImageArray
from synctva_ros.weights.files import WeightsError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> FaceEncoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    save_encoder(FaceNetwork(FaceNetworkConfig(7, width=8, blocks=1)), folder, "face-test-3", EMOTIONS, {})
    return FaceEncoder(str(folder))


def noise(count: int) -> list[ImageArray]:
    return list(np.random.default_rng(2).integers(0, 256, (count, 48, 48), np.uint8))


@pytest.mark.parametrize("image", [np.zeros((48, 64), np.float32), np.zeros((0, 64), np.uint8), None])
def test_unsupported_crops_are_named(encoder: FaceEncoder, image: ImageArray) -> None:
    with pytest.raises(ValueError, match="give uint8"):
        encoder.encode([image])


def test_what_it_says_of_itself(encoder: FaceEncoder) -> None:
    assert encoder.name == "face-test-3"
    assert encoder.width == len(encoder.labels) == 7
    assert encoder.labels == EMOTIONS
    assert encoder.modality == "vision"
    assert encoder.side == 48
    assert FaceEncoder("").name == FaceEncoder().name


def test_logits_of_crops(encoder: FaceEncoder) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    grey = cv2.cvtColor(np.ascontiguousarray(data.astronaut()[60:170, 172:282, ::-1]), cv2.COLOR_BGR2GRAY)
    (logits,) = encoder.encode([grey])
    assert logits.shape == (7,)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    # Mirrored, of another size, in another light: the same.
    np.testing.assert_allclose(encoder.encode([np.ascontiguousarray(grey[:, ::-1])])[0], logits, atol=1e-4)
    for changed in (cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA), (grey // 2 + 20).astype(np.uint8)):
        np.testing.assert_allclose(encoder.encode([changed])[0], logits, atol=0.1 * np.ptp(logits))
    assert np.isfinite(encoder.encode([np.zeros((48, 48), np.uint8)])).all()
    assert encoder.encode([np.zeros((1, 1), np.uint8)]).shape == (1, 7)


def test_a_batch_is_its_crops(encoder: FaceEncoder) -> None:
    crops = [*noise(20), np.zeros((30, 70), np.uint8)]
    singly = np.concatenate([encoder.encode([crop]) for crop in crops])
    np.testing.assert_allclose(encoder.encode(crops), singly, atol=1e-4)
    assert encoder.encode([]).shape == (0, 7)
    np.testing.assert_allclose(encoder.encode(np.stack(crops[:20])), singly[:20], atol=1e-4)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    save_encoder(FaceNetwork(FaceNetworkConfig(2, width=8, blocks=1)), tmp_path, "smile-1", ("smile", "none"), {})
    with pytest.raises(WeightsError, match="is for the classes"):
        FaceEncoder(str(tmp_path))
    with pytest.raises(WeightsError, match="missing: give the name of weights"):
        FaceEncoder("no-such-weights")


def test_colour_crop_is_refused(encoder: FaceEncoder) -> None:
    with pytest.raises(ValueError, match=r"crop has shape \(48, 48, 3\); give a grey"):
        encoder.encode([np.zeros((48, 48, 3), np.uint8)])
