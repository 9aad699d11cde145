"""The weights of encoders: written, read, and refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from synctva_ros import weights
from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.weights import load_encoder, save_encoder
from synctva_ros.weights.files import DESCRIPTION, TENSORS, WeightsError

LABELS = ("calm", "cross", "glad")
CONFIG = FaceNetworkConfig(3, width=8, blocks=1)


def network() -> FaceNetwork:
    torch.manual_seed(0)
    made = FaceNetwork(CONFIG)
    made(torch.rand(4, 1, 48, 48))  # moves the running means of the batch normalisation
    return made


def load(folder: Path, labels: tuple[str, ...] = LABELS) -> tuple[Any, str, dict[str, Any]]:
    return load_encoder(str(folder), FaceNetwork, FaceNetworkConfig, labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_encoder(network(), tmp_path, "face-test-1", LABELS, {"data": "none", "note": "für Menschen"})
    return tmp_path


def test_round_trip(tmp_path: Path) -> None:
    saved = network().eval()
    save_encoder(saved, tmp_path / "new/deeper", "face-test-1", LABELS, {"accuracy": 0.5})
    loaded, name, training = load(tmp_path / "new/deeper")
    assert (name, training) == ("face-test-1", {"accuracy": 0.5})
    assert loaded.config == CONFIG
    assert not loaded.training
    for key, tensor in loaded.state_dict().items():
        wanted = saved.state_dict()[key]
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor, wanted.half().float() if wanted.is_floating_point() else wanted), key
    images = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), saved(images), atol=1e-2, rtol=1e-2)


def test_stored_in_half_precision(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}
    assert (folder / TENSORS).stat().st_size < 2.2 * sum(tensor.numel() for tensor in tensors.values()) + 8000


def test_description_is_readable(folder: Path) -> None:
    text = (folder / DESCRIPTION).read_text(encoding="utf-8")
    assert "für Menschen" in text
    written = json.loads(text)
    assert written["labels"] == list(LABELS)
    assert written["network"] == {"width": 8, "blocks": 1, "dropout": CONFIG.dropout}


def test_shipped_weights_are_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", folder.parent)
    assert load_encoder(folder.name, FaceNetwork, FaceNetworkConfig, LABELS)[1] == "face-test-1"


def test_labels_must_fit_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="2 labels for 3 outputs: give one per output"):
        save_encoder(network(), tmp_path, "face-test-1", LABELS[:2], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", [TENSORS, DESCRIPTION])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(WeightsError, match=rf"{missing} is missing: give the name of weights"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.* is missing: give the name of weights"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
@pytest.mark.parametrize("file", [TENSORS, DESCRIPTION])
def test_damaged_files_are_refused(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot be read \(.*\): fetch or train the weights again"):
        load(folder)


def test_tensors_that_are_cut_short_are_refused(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        load(folder)


def change(folder: Path, key: str, value: Any) -> None:
    written = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if value is None:
        del written[key]
    else:
        written[key] = value
    (folder / DESCRIPTION).write_text(json.dumps(written), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("format_version", 2, "has format version 2, this program reads 3: use weights of that version"),
        ("format_version", None, "has format version None, this program reads 3: use"),
        ("architecture", "voice-conformer", "is for 'voice-conformer', but face-residual is needed: choose"),
        ("architecture", None, "is for None, but face-residual is needed: choose"),
        (
            "labels",
            ["cross", "calm", "glad"],
            r"is for the classes \['cross', 'calm', 'glad'\], but \['calm'.* are wanted: choose",
        ),
        ("labels", None, "is for the classes None, but .* are wanted: choose"),
        ("name", None, "name must be a text that is not empty, not None: correct"),
        ("training", None, "training must be a JSON object, not None: correct"),
        ("training", "much", "training must be a JSON object, not 'much': correct"),
        ("network", None, "no entry 'network': choose other weights, or train these again"),
        ("network", [8, 1], "cannot be used .*: choose"),
        ("network", {"width": 16, "blocks": 1}, r"tensor 'body\.\S+' is .* wanted .*: fetch"),
        ("network", {"width": 8, "blocks": 2}, "lacks the tensor .*: fetch"),
        ("network", {"width": "wide"}, "cannot be used .*: choose"),
        ("network", {"depth": 3}, "cannot be used .*depth.*: choose"),
        ("network", {"width": 8, "blocks": 1, "classes": 3}, "cannot be used .*classes.*: choose"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, key: str, value: Any, sentence: str) -> None:
    change(folder, key, value)
    with pytest.raises(WeightsError, match=sentence):
        load(folder)


def test_a_description_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("[1]")
    with pytest.raises(WeightsError, match="has format version None"):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda tensors: tensors.pop("head.1.bias"), "lacks the tensor 'head.1.bias'"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unknown tensor 'extra'"),
        (lambda tensors: tensors.update({"head.1.bias": torch.zeros(4)}), "tensor 'head.1.bias' is"),
    ],
)
def test_other_tensors_are_refused(
    folder: Path, spoil: Callable[[dict[str, torch.Tensor]], None], sentence: str
) -> None:
    tensors = load_file(folder / TENSORS)
    spoil(tensors)
    save_file(tensors, folder / TENSORS)
    with pytest.raises(WeightsError, match=sentence):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    tensors = load_file(folder / TENSORS)
    tensors["head.1.bias"][1] = value
    save_file(tensors, folder / TENSORS)
    with pytest.raises(WeightsError, match="holds NaN or infinity: the training failed"):
        load(folder)
