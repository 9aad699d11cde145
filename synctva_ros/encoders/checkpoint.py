"""Checkpoints of other people, which :mod:`synctva_ros.weights.carried` finds, read without unpickling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class _Inert:
    """Stands in for a class that a checkpoint names beside its tensors, and that nobody needs."""

    def __init__(self, *given: Any) -> None:
        pass


def read_checkpoint(path: Path, inert: Sequence[str] = ()) -> dict[str, Any]:
    """Read a checkpoint of PyTorch.

    Args:
        path: of the file.
        inert: full names of classes in the checkpoint that are not tensors.
    """
    named: list[Any] = [(_Inert, name) for name in inert]
    with torch.serialization.safe_globals([*named, torch.torch_version.TorchVersion]):
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded
