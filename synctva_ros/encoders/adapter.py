"""What fine-tuning changed in a text encoder, as a low-rank difference; above :mod:`synctva_ros.weights.files`.

``model.json`` also holds ``base``, the encoder that the difference belongs to (``TextEncoder.base``), and its ``rank``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synctva_ros.weights.files import DESCRIPTION, WeightsError, check_tensors, read, using, write

ARCHITECTURE = "low-rank-text"


def save_adapter(
    model: torch.nn.Module,
    original: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    name: str,
    base: str,
    rank: int,
    training: Mapping[str, Any],
) -> None:
    """Write what training changed in a text encoder's model as a low-rank difference, in half precision.

    Each weight matrix is kept as the nearest product of ``rank`` columns and rows (Eckart and Young 1936); biases and
    norms, which are small, as they are; what did not change, not at all.

    Args:
        model: The trained ``TextEncoder.model``.
        original: Its state before training.
        folder: Gets the two files.
        name: Name and version, which become part of the encoder's name.
        base: ``TextEncoder.base`` of the encoder that the adapter belongs to.
        rank: Of the difference.
        training: Data, figures and limits, for people.
    """
    tensors = {}
    for key, now in model.state_dict().items():
        change = (now.detach().cpu() - original[key].cpu()).float()
        if not bool(change.any()):
            continue
        if change.ndim == 2:
            u, s, v = torch.linalg.svd(change, full_matrices=False)
            root = s[:rank].sqrt()
            tensors[f"{key}/columns"], tensors[f"{key}/rows"] = u[:, :rank] * root, root.unsqueeze(1) * v[:rank]
        else:
            tensors[key] = change
    halves = {key: tensor.half() for key, tensor in tensors.items()}
    write(folder, ARCHITECTURE, name, halves, {"base": base, "rank": rank, "training": dict(training)})


def add_adapter(model: torch.nn.Module, folder: Path, base: str) -> str:
    """Add the difference in ``folder`` to the model's weights.

    Returns:
        The adapter's name.

    Raises:
        WeightsError: It cannot be read, or does not fit the model, which is then as it was.
    """
    written, halves = read(folder, [ARCHITECTURE])
    if written.get("base") != base:
        raise WeightsError(
            f"{folder / DESCRIPTION} is for {written.get('base')}, not for {base}; choose that model, or no adapter"
        )
    changes = {key: half.float() for key, half in halves.items()}
    with using(folder):  # columns and rows of different ranks
        for key in [key.removesuffix("/rows") for key in halves if key.endswith("/rows")]:
            if f"{key}/columns" in changes:
                changes[key] = changes.pop(f"{key}/columns") @ changes.pop(f"{key}/rows")
    state = model.state_dict()
    check_tensors(folder, changes, {key: state[key].float() for key in changes if key in state})
    with torch.no_grad():
        for key, change in changes.items():
            state[key] += change
    return str(written["name"])
