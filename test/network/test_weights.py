from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from synctva_ros.network.enhancement import Projection
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import SYNC_TVA, Description, load, save
from synctva_ros.weights.files import WeightsError

CONFIG = SyncTVAConfig(widths=(6, 5, 4), classes=3, hidden=8, heads=2, window=2)
ABOUT = Description(
    model_id="test-1",
    labels=("a", "b", "c"),
    encoders={"text": "t-1", "audio": "a-1", "vision": "v-1"},
    training={"data": "none"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = SyncTVA(CONFIG)
    model.temperature = (1.7, 1.0, 0.8)
    save(model, tmp_path, ABOUT)
    return tmp_path


def test_round_trip(folder: Path) -> None:
    torch.manual_seed(0)
    model = SyncTVA(CONFIG)
    projection = model.projection[0]
    assert isinstance(projection, Projection)
    projection.fit(torch.randn(10, 6) * 3)
    model.temperature = (0.9, 1.1, 2.0)
    save(model, folder / "new" / "deeper", ABOUT)
    loaded, description = load(folder / "new" / "deeper")
    assert description == ABOUT
    assert loaded.config == CONFIG
    assert loaded.temperature == (0.9, 1.1, 2.0)
    assert not loaded.training
    text, audio, vision = (torch.randn(3, width) for width in CONFIG.widths)
    batch = DialogueBatch(
        text=text,
        audio=audio,
        vision=vision,
        mask=torch.ones(3, 3, dtype=torch.bool),
        start=torch.arange(3.0),
        end=torch.arange(3.0) + 0.5,
        speaker=torch.zeros(3, dtype=torch.long),
        dialogue=torch.zeros(3, dtype=torch.long),
    )
    assert torch.equal(model.eval()(batch).logits, loaded(batch).logits)


@pytest.mark.parametrize("without", [(), *((part,) for part in PARTS), PARTS])
@pytest.mark.parametrize("widths", [(6, 5, 4), (6, 0, 0), (0, 5, 4)])
def test_networks_that_lack_something_round_trip(
    tmp_path: Path, without: tuple[str, ...], widths: tuple[int, int, int]
) -> None:
    config = replace(CONFIG, without=without, widths=widths, context="full")
    about = replace(
        ABOUT, encoders={m: n if w else "none" for (m, n), w in zip(ABOUT.encoders.items(), widths, strict=True)}
    )
    model = SyncTVA(config)
    save(model, tmp_path, about)
    loaded, description = load(tmp_path)
    assert loaded.config == config
    assert isinstance(loaded.config.without, tuple)
    assert description == about
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


@dataclass(frozen=True)
class PlainConfig:
    widths: tuple[int, int, int]
    classes: int
    slope: float = 1.0


class Plain(nn.Module):
    """Another network than ours."""

    ARCHITECTURE: ClassVar[str] = "plain"

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = (1.0, 1.0, 1.0)
        self.linear = nn.Linear(sum(config.widths), config.classes)


def test_other_architectures_are_for_those_who_ask_for_them(tmp_path: Path) -> None:
    plain = Plain(PlainConfig((6, 5, 4), 3, slope=0.5))
    plain.temperature = (2.0, 2.0, 2.0)
    save(plain, tmp_path / "plain", ABOUT)
    with pytest.raises(WeightsError, match="is for 'plain', but sync-tva is needed: choose other weights"):
        load(tmp_path / "plain")
    architectures = {**SYNC_TVA, "plain": (Plain, PlainConfig)}
    loaded, description = load(tmp_path / "plain", architectures=architectures)
    assert isinstance(loaded, Plain)
    assert loaded.config == plain.config
    assert loaded.temperature == (2.0, 2.0, 2.0)
    assert not loaded.training
    assert description == ABOUT
    assert torch.equal(loaded.linear.weight, plain.linear.weight)
    save(SyncTVA(CONFIG), tmp_path / "ours", ABOUT)
    assert isinstance(load(tmp_path / "ours", architectures=architectures)[0], SyncTVA)
    with pytest.raises(WeightsError, match="'sync-tva', but plain is needed"):
        load(tmp_path / "ours", architectures={"plain": (Plain, PlainConfig)})


def test_what_the_caller_runs_is_compared(folder: Path) -> None:
    load(folder, labels=["a", "b", "c"], encoders=ABOUT.encoders)
    load(folder, encoders={"vision": "v-1"})
    with pytest.raises(WeightsError, match=r"is for the classes \['a', 'b', 'c'\], but \['b', 'a', 'c'\] are wanted"):
        load(folder, labels=["b", "a", "c"])
    with pytest.raises(WeightsError, match="audio encoder 'a-1', but 'a-2' is running"):
        load(folder, encoders={"audio": "a-2"})
    with pytest.raises(WeightsError, match="no modality 'smell'"):
        load(folder, encoders={"smell": "s-1"})


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        written = json.loads((folder / "model.json").read_text())
        change(written)
        (folder / "model.json").write_text(json.dumps(written))

    return apply


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.json").write_text("{"), r"model.json cannot be read \(.*\): fetch"),
        (lambda folder: (folder / "model.json").write_text("[]"), "has format version None"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04no"), "model.safetensors cannot be read"),
        (edit(lambda w: w.update(format_version=2)), "format version 2, this program reads 3"),
        (edit(lambda w: w.update(format_version=4)), "format version 4, this program reads 3"),
        (edit(lambda w: w.pop("format_version")), "format version None"),
        (edit(lambda w: w.update(architecture="gru")), "is for 'gru', but sync-tva is needed"),
        (edit(lambda w: w.update(architecture=["sync-tva"])), r"is for \['sync-tva'\], but"),
        (edit(lambda w: w.pop("architecture")), "is for None, but sync-tva is needed"),
        (edit(lambda w: w.pop("temperature")), "no entry 'temperature'"),
        (edit(lambda w: w.update(temperature=[1.0, 0.0, 1.0])), "temperatures must be positive numbers"),
        (edit(lambda w: w.update(temperature=1.0)), "cannot be used"),
        (edit(lambda w: w.update(name="")), "name must be a text"),
        (edit(lambda w: w["labels"].append("d")), "tensor 'fusion.classifier.0.4.weight' is"),
        (edit(lambda w: w.update(labels=["a", "a", "b"])), "labels must be different"),
        (edit(lambda w: w["encoders"].pop("vision")), "no entry 'vision'"),
        (edit(lambda w: w["encoders"]["text"].update(name="")), "text encoder has no name"),
        (edit(lambda w: w["encoders"]["text"].update(width=7)), "tensor 'projection.0.mean' is"),
        (edit(lambda w: w["network"].update(hidden=7)), "must be even"),
        (edit(lambda w: w["network"].update(layers=1.5)), "cannot be used"),
        (edit(lambda w: w["network"].update(without=["hope"])), "there is no part 'hope' to leave out"),
        (edit(lambda w: w["network"].update(without=["memory"])), "unknown tensor 'memory.0"),
        (edit(lambda w: w["network"].update(size=7)), "unexpected keyword argument 'size'"),
        (edit(lambda w: w["network"].update(layers=2)), "lacks the tensor 'graphs.0.layers.1"),
        (edit_tensors(lambda t: t.pop("fusion.share.bias")), "lacks the tensor 'fusion.share.bias' \\(1 missing"),
        (edit_tensors(lambda t: t.update(more=torch.zeros(1))), "unknown tensor 'more'"),
        (edit_tensors(lambda t: t.update({"fusion.share.bias": torch.zeros(3)})), r"\[3\], wanted torch.float32 \[4\]"),
        (
            edit_tensors(lambda t: t.update({"fusion.share.bias": torch.zeros(4, dtype=torch.float64)})),
            "torch.float64",
        ),
        (edit_tensors(lambda t: t["fusion.share.bias"].fill_(torch.nan)), "'fusion.share.bias' holds NaN"),
    ],
)
def test_refusals(folder: Path, break_it: Callable[[Path], Any], says: str) -> None:
    load(folder)
    break_it(folder)
    with pytest.raises(WeightsError, match=says):
        load(folder)


def test_nothing_unfit_is_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="2 labels for 3 outputs"):
        save(SyncTVA(CONFIG), tmp_path / "w", replace(ABOUT, labels=("a", "b")))
    with pytest.raises(WeightsError, match="audio encoder has no name"):
        save(SyncTVA(CONFIG), tmp_path / "w", replace(ABOUT, encoders={"text": "t-1", "vision": "v-1"}))
    assert not (tmp_path / "w").exists()
