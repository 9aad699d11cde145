"""The state of an unfinished training on disk, to go on from after an interruption; safetensors, nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], progress: Mapping[str, Any]) -> None:
    """Write groups of tensors and what JSON can hold in one file, which is there whole or not at all."""
    # Tied weights are one tensor under two names, which the format does not know.
    flat = {f"{group}/{name}": t.contiguous().clone() for group, named in tensors.items() for name, t in named.items()}
    unfinished = folder / f"{CHECKPOINT}.part"
    metadata = {"progress": json.dumps(progress), "tensors": json.dumps(sorted(flat))}
    save_file(flat, unfinished, metadata=metadata)
    unfinished.replace(folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What ``save_checkpoint`` wrote, or None where there is nothing.

    Raises:
        ValueError: the file cannot be read, or its tensors are not those that were written.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            progress, written = json.loads(metadata["progress"]), set(json.loads(metadata["tensors"]))
            if odd := sorted(written ^ set(file.keys())):
                raise ValueError(f"the tensor {odd[0]!r} is {'missing' if odd[0] in written else 'unknown'}")
            for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it to begin this training again") from error
    return groups, progress


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state, by parameter number and name."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, named in state.items() for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took out; learning rates are the schedule's affair."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    whole["state"] = state
    optimizer.load_state_dict(whole)
