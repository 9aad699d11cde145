"""The state of an unfinished training: what goes in comes out, and a damaged file is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from synctva_ros.training.checkpoint import (
    CHECKPOINT,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

PROGRESS: dict[str, Any] = {"epoch": 3, "curves": {"loss": [1.5, 0.1 + 0.2]}, "random": {"state": 2**127 + 1}}
TENSORS = {
    "model": {"a.weight": torch.randn(2, 3), "a.bias": torch.zeros(3)},
    "best": {"a.weight": torch.ones(2, 3).t()},
}


def test_round_trip(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, TENSORS, PROGRESS)
    stored = load_checkpoint(tmp_path)
    assert stored is not None
    groups, progress = stored
    assert progress == PROGRESS
    assert {group: set(named) for group, named in groups.items()} == {g: set(named) for g, named in TENSORS.items()}
    for group, named in TENSORS.items():
        for name, tensor in named.items():
            assert torch.equal(groups[group][name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_an_interruption_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, TENSORS, PROGRESS)

    def interrupted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("synctva_ros.training.checkpoint.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, TENSORS, PROGRESS | {"epoch": 4})
    stored = load_checkpoint(tmp_path)
    assert stored is not None
    assert stored[1]["epoch"] == 3


def without(tensors: dict[str, Tensor]) -> None:
    del tensors["model/a.bias"]


def added(tensors: dict[str, Tensor]) -> None:
    tensors["model/b.bias"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(without, "the tensor 'model/a.bias' is missing"), (added, "the tensor 'model/b.bias' is unknown")],
)
def test_other_tensors_are_refused(tmp_path: Path, change: Any, sentence: str) -> None:
    save_checkpoint(tmp_path, TENSORS, PROGRESS)
    path = tmp_path / CHECKPOINT
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(
        ValueError, match=f"{CHECKPOINT} cannot be read .{sentence}.: delete it to begin this training again"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tensors here", None, {}, {"progress": "{", "tensors": "[]"}])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | dict[str, str] | None) -> None:
    path = tmp_path / CHECKPOINT
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file({"model/a": torch.zeros(1)}, path, metadata=content)
    with pytest.raises(ValueError, match=f"{CHECKPOINT} cannot be read .*delete it"):
        load_checkpoint(tmp_path)


def test_an_optimizer_goes_on_as_if_nothing_had_been() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(5, 4, generator=generator)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model, copy = nn.Linear(4, 2), nn.Linear(4, 2)
    first, second = (torch.optim.AdamW(m.parameters(), lr=0.1) for m in (model, copy))
    for seed in range(3):
        step(model, first, seed)
    copy.load_state_dict(model.state_dict())
    restore_optimizer(second, {name: tensor.clone() for name, tensor in optimizer_tensors(first).items()})
    for seed in (3, 4):
        step(model, first, seed)
        step(copy, second, seed)
    assert torch.equal(model.weight, copy.weight)
    assert torch.equal(model.bias, copy.bias)
