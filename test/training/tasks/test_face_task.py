"""Training of the face encoder on a handful of drawn faces: the images, their distortions, and from end to end."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
from synctva_ros.evaluation.metrics import Scores
from synctva_ros.events import EMOTIONS, ImageArray
from synctva_ros.training.loop import fit, seeded
from synctva_ros.training.recipe import FaceRecipe
from synctva_ros.training.tasks import face as face_encoder
from synctva_ros.training.tasks.face import (
    NAME,
    PART,
    FaceTask,
    as_tensors,
    distort,
    predict,
    read_faces,
    train_face_encoder,
)

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")


def draw(glad: bool, rng: np.random.Generator, side: int = 48) -> ImageArray:
    """A face whose mouth goes up or down."""
    scale = side / 48
    image = np.full((side, side), rng.integers(150, 220), np.uint8)
    ink = int(rng.integers(0, 60))
    x, y = (float(shift) for shift in rng.uniform(-2, 2, 2))

    def place(across: float, down: float) -> tuple[int, int]:
        return round((across + x) * scale), round((down + y) * scale)

    for eye in (15, 33):
        cv2.circle(image, place(eye, 18), round(3 * scale), ink, -1)
    angles = (0, 180) if glad else (180, 360)
    cv2.ellipse(image, place(24, 32 if glad else 38), (round(10 * scale), round(6 * scale)), 0, *angles, ink, 2)
    return image


def jpeg(image: ImageArray) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1])


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def faces(count: int, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    return {
        f"fer/{'happy' if number % 2 else 'sad'}/{number:03}.jpg": jpeg(draw(bool(number % 2), rng))
        for number in range(count)
    }


TRAINING, VALIDATION = "faces/fer2013_train.zip", "faces/fer2013_val.zip"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_zip(folder / TRAINING, faces(24, 0))
    write_zip(folder / VALIDATION, faces(10, 1))
    return folder


class TestDistort:
    def test_shape_and_range(self, data: Path) -> None:
        images, _ = as_tensors(read_faces(data, "fer2013", "train"))
        before = images.clone()
        torch.manual_seed(0)
        seen = distort(images.repeat(8, 1, 1, 1))
        assert torch.equal(images, before)
        assert seen.shape == (8 * len(images), 1, PART, PART)
        assert seen.dtype == torch.float32
        assert torch.isfinite(seen).all()
        assert seen.min() >= 0.0
        assert seen.max() <= 1.5
        # Each image is seen otherwise each time, and there is something to be seen.
        assert torch.unique(seen.flatten(1), dim=0).shape[0] == len(seen)
        assert (seen.std(dim=(1, 2, 3)) > 0.01).all()

    def test_the_same_from_the_same_seed(self, data: Path) -> None:
        images, _ = as_tensors(read_faces(data, "fer2013", "train"))
        made = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made.append(distort(images))
        assert torch.equal(made[0], made[1])
        assert not torch.equal(made[0], made[2])

    def test_a_single_image(self) -> None:
        for value in (0, 255):
            assert torch.isfinite(distort(torch.full((1, 1, 48, 48), value, dtype=torch.uint8))).all()

    def test_half_of_the_images_are_mirrored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("TURN", "SCALE", "STRETCH", "SHIFT", "GAMMA", "SIDE_LIGHT", "GRAIN", "BLURRED", "COVERED"):
            monkeypatch.setattr(face_encoder, name, 0.0)
        ramp = torch.arange(48, dtype=torch.uint8).mul(5).expand(400, 1, 48, 48)
        torch.manual_seed(0)
        seen = distort(ramp)
        rising = seen[:, 0, 0, -1] > seen[:, 0, 0, 0]
        assert 150 < rising.sum() < 250
        # The middle of the image, at its own size.
        edge = (48 - PART) // 2
        torch.testing.assert_close(seen[rising][0], ramp[0, :, edge:-edge, edge:-edge] / 255, atol=1e-4, rtol=0.0)


def test_predicted_with_the_mirror_image(data: Path) -> None:
    images, _ = as_tensors(read_faces(data, "fer2013", "valid"))
    torch.manual_seed(0)
    network = FaceNetwork(FaceNetworkConfig(7, width=8, blocks=1)).eval()
    probabilities = predict(network, images)
    assert probabilities.shape == (len(images), 7)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(predict(network, images.flip(3)), probabilities, atol=1e-6)


SHORT = FaceRecipe(epochs=2, batch=8)


def train(data: Path, out: Path, **options: object) -> Scores:
    """Two epochs with a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face_encoder, "FaceNetworkConfig", partial(FaceNetworkConfig, width=8, blocks=1))
        return train_face_encoder(data, out, SHORT, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    out = tmp_path_factory.mktemp("trained") / "new/weights"
    return out, train(data, out, report=out.parent / "page/report.html")


def test_two_expressions_are_learned(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So often over so few drawings that a training which goes the wrong way cannot hide it."""
    monkeypatch.setattr(face_encoder, "FaceNetworkConfig", partial(FaceNetworkConfig, width=8, blocks=1))
    for name in ("TURN", "SCALE", "STRETCH", "SHIFT", "GAMMA", "SIDE_LIGHT", "GRAIN", "BLURRED", "COVERED", "MIXED"):
        monkeypatch.setattr(face_encoder, name, 0.0)
    images, targets = as_tensors(read_faces(data, "fer2013", "train"))
    recipe = FaceRecipe(epochs=12, batch=8, learning_rate=0.05, averaging=0.0)
    task = FaceTask(recipe, images, targets, seeded(0))
    losses = fit(task, recipe, tmp_path / "run", "faces", progress=False).columns["train_loss"]
    assert losses[-1] < 0.5 * losses[0]


class TestTraining:
    def test_what_is_written(self, trained: tuple[Path, Scores]) -> None:
        out, scores = trained
        assert {path.name for path in out.iterdir()} - {"tensorboard"} == {"log.csv", "model.json", "model.safetensors"}
        written = json.loads((out / "model.json").read_text(encoding="utf-8"))
        assert (written["name"], written["labels"]) == (NAME, list(EMOTIONS))
        assert (written["training"]["epochs"], written["training"]["seed"]) == (2, 0)
        assert written["training"]["validation"]["accuracy"] == pytest.approx(scores.accuracy, abs=1e-4)
        assert written["training"]["validation"]["unweighted_recall"] == pytest.approx(
            scores.unweighted_recall, abs=1e-4
        )

    def test_the_encoder_says_what_was_scored(self, data: Path, trained: tuple[Path, Scores]) -> None:
        out, scores = trained
        encoder = FaceEncoder(str(out))
        assert encoder.name == NAME
        images, targets = as_tensors(read_faces(data, "fer2013", "valid"))
        labels = targets.argmax(dim=1).numpy()
        assert scores.n == len(labels)
        said = encoder.encode(list(images[:, 0].numpy())).argmax(axis=1)
        assert float((said == labels).mean()) == pytest.approx(scores.accuracy)

    def test_the_report(self, trained: tuple[Path, Scores]) -> None:
        page = (trained[0].parent / "page/report.html").read_text(encoding="utf-8")
        assert "Face encoder on the validation images of fer2013" in page
        assert "10 images that it was not trained on" in page

    def test_the_same_from_the_same_seed(self, data: Path, trained: tuple[Path, Scores], tmp_path: Path) -> None:
        train(data, tmp_path / "again")
        assert (tmp_path / "again/model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()
        train(data, tmp_path / "other", seed=1)
        assert (tmp_path / "other/model.safetensors").read_bytes() != (trained[0] / "model.safetensors").read_bytes()

    def test_data_that_is_not_there_is_named(self, data: Path, tmp_path: Path) -> None:
        write_zip(tmp_path / TRAINING, faces(4, 0))
        with pytest.raises(ValueError, match=r"fer2013_val\.zip"):
            train(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
