"""Weights on disk: a folder with ``model.safetensors`` and ``model.json``. Nothing is unpickled.

``model.json`` holds of every network::

    {
      "format_version": 3,
      "architecture": "sync-tva",     what the tensors are of
      "name": "synctva-1",            name and version
      ...                             what else those who use this architecture need to know
      "training": {...}               data, figures and limits, for people
    }
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from synctva_ros import weights as shipped
from synctva_ros.weights import WeightsError as WeightsError

FORMAT_VERSION = 3
TENSORS = "model.safetensors"
DESCRIPTION = "model.json"
_REPAIR = "choose other weights, or train these again"


def locate(weights: Path | str) -> Path:
    """The folder of weights that come with the package, by its name, or else the path as it is."""
    named = shipped.WEIGHTS / weights
    return named if (named / DESCRIPTION).is_file() else Path(weights).expanduser()


def write(folder: Path, architecture: str, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write weights to ``folder``, which is created if need be.

    Args:
        folder: gets the two files.
        architecture: what the tensors are of.
        name: name and version of the network.
        tensors: by name, as they shall be stored.
        about: all else that the description shall say; ``training`` is part of it.

    Raises:
        WeightsError: the name is empty.
    """
    written = {"format_version": FORMAT_VERSION, "architecture": architecture, "name": name, **about}
    _check_header(written, "the description")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS).write_bytes(to_bytes({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}))
    (folder / DESCRIPTION).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(
    folder: Path, architectures: Collection[str], labels: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of the weights in ``folder``.

    Args:
        folder: where :func:`write` wrote them, see :func:`locate`.
        architectures: those that the caller can use.
        labels: the classes that the caller expects, in order; None accepts any.

    Raises:
        WeightsError: a file is missing or unreadable, or of another format version, architecture or classes.
    """
    where = folder / DESCRIPTION
    written = _load(where, lambda path: json.loads(path.read_text(encoding="utf-8")))
    tensors = _load(folder / TENSORS, load_file)
    version = written.get("format_version") if isinstance(written, dict) else None
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{where} has format version {version!r}, this program reads {FORMAT_VERSION}: "
            "use weights of that version or the program that they were made for"
        )
    found = written.get("architecture")
    if not isinstance(found, str) or found not in architectures:
        raise WeightsError(f"{where} is for {found!r}, but {' or '.join(architectures)} is needed: {_REPAIR}")
    _check_header(written, str(where))
    if labels is not None and written.get("labels") != list(labels):
        raise WeightsError(
            f"{where} is for the classes {written.get('labels')}, but {list(labels)} are wanted: "
            "choose weights that were trained for these classes"
        )
    return written, tensors


@contextmanager
def using(folder: Path) -> Iterator[None]:
    """Says of what goes wrong within that the description in ``folder`` is to blame, as a ``WeightsError``."""
    where = folder / DESCRIPTION
    try:
        yield
    except WeightsError:
        raise
    except KeyError as error:
        raise WeightsError(f"{where} has no entry {error}: {_REPAIR}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{where} cannot be used ({error}): {_REPAIR}") from error


def check_labels(labels: Sequence[Any], outputs: int, where: Path | str = "the description") -> None:
    """Each output has a label of its own.

    Raises:
        WeightsError: it does not.
    """
    if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) != len(labels):
        raise WeightsError(f"{where}: labels must be different, non-empty texts, not {list(labels)}: correct them")
    if len(labels) != outputs:
        raise WeightsError(f"{where}: {len(labels)} labels for {outputs} outputs: give one per output")


def check_tensors(folder: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """The tensors that were read from ``folder`` are those of the network: same names, shapes and types, and finite.

    Raises:
        WeightsError: they are not; the message names the first one that is wrong.
    """
    path = folder / TENSORS
    repair = f"{DESCRIPTION} and {TENSORS} are not of the same model: fetch or train both again"
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise WeightsError(f"{path} lacks the tensor {missing[0]!r} ({len(missing)} missing in all): {repair}")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise WeightsError(f"{path} has the unknown tensor {extra[0]!r} ({len(extra)} in all): {repair}")
    for name, tensor in wanted.items():
        given = tensors[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise WeightsError(
                f"{path}: tensor {name!r} is {given.dtype} {list(given.shape)}, wanted {tensor.dtype} "
                f"{list(tensor.shape)}: {repair}"
            )
        if not bool(torch.isfinite(given).all()):
            raise WeightsError(f"{path}: tensor {name!r} holds NaN or infinity: the training failed, train again")


def halved(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network in half precision, which is how those of our encoders and of the ears are stored."""
    state = network.state_dict().items()
    return {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state}


def restore(folder: Path, network: nn.Module, halves: Mapping[str, Tensor]) -> None:
    """Give a network the tensors of ``folder`` that :func:`halved` made, in single precision, ready for inference.

    Raises:
        WeightsError: they are not those of the network.
    """
    tensors = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in halves.items()}
    check_tensors(folder, tensors, network.state_dict())
    network.load_state_dict(tensors)
    network.eval()


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing: give the name of weights that come with the package, or a folder with {DESCRIPTION} "
            f"and {TENSORS}"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): fetch or train the weights again") from error


def _check_header(written: Mapping[str, Any], where: str) -> None:
    """What every description says is there and of its type."""
    for key, kind, what in (("name", str, "a text that is not empty"), ("training", dict, "a JSON object")):
        value = written.get(key)
        if not isinstance(value, kind) or value == "":
            raise WeightsError(f"{where}: {key} must be {what}, not {value!r}: correct it")
