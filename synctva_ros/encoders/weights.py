"""Save and load the networks of the encoders: a folder with ``model.safetensors`` and ``model.json``.

``model.json`` holds::

    {
      "format_version": 1,
      "architecture": "face-residual",
      "name": "face-expression-1",          name and version of the encoder; the emotion network's weights ask for it
      "labels": ["neutral", ...],           what the outputs stand for
      "network": {"width": 64, ...},        the network's config but for its number of classes
      "training": {...}                     data, figures and limits; for people, not read back
    }

The tensors are stored in half precision, which changes no figure that we give, and computed with in single precision.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from synctva_ros.defaults import WEIGHTS

FORMAT_VERSION = 1
TENSORS = "model.safetensors"
DESCRIPTION = "model.json"


class EncoderWeightsError(ValueError):
    """The weights of an encoder cannot be used; the message says why and what to do."""


def save_encoder(network: Any, folder: Path, name: str, labels: Sequence[str], training: dict[str, Any]) -> None:
    """Write an encoder's network to ``folder``, which is created if need be.

    Args:
        network: a module with ``ARCHITECTURE`` and a dataclass ``config`` that has ``classes``.
        folder: gets the two files.
        name: name and version of the encoder.
        labels: of the outputs, in order.
        training: what it was trained on and how well it does.

    Raises:
        EncoderWeightsError: there are more or fewer labels than outputs.
    """
    config = asdict(network.config)
    if config.pop("classes") != len(labels):
        raise EncoderWeightsError(f"{len(labels)} labels for {network.config.classes} outputs: give one per output")
    written = {
        "format_version": FORMAT_VERSION,
        "architecture": network.ARCHITECTURE,
        "name": name,
        "labels": list(labels),
        "network": config,
        "training": training,
    }
    tensors = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for key, tensor in network.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS).write_bytes(to_bytes(tensors))
    (folder / DESCRIPTION).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_encoder(weights: str, build: Any, configure: type, labels: Sequence[str]) -> tuple[Any, str, dict[str, Any]]:
    """Read an encoder's network, ready for inference on the CPU.

    Args:
        weights: name of a shipped folder, or a path.
        build: class of the network, a module with ``ARCHITECTURE``.
        configure: class of its config.
        labels: what its outputs must stand for.

    Returns:
        The network, the encoder's name and version, and what is written about its training.

    Raises:
        EncoderWeightsError: a file is missing or unreadable, or of another format, architecture, shape or labels.
    """
    folder = WEIGHTS / weights if (WEIGHTS / weights).is_dir() else Path(weights)
    where = folder / DESCRIPTION
    try:
        written = json.loads(where.read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except FileNotFoundError as error:
        raise EncoderWeightsError(
            f"{error.filename or folder / TENSORS} is missing: give the name of weights that come with the package, or "
            f"a folder with {DESCRIPTION} and {TENSORS}"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise EncoderWeightsError(f"{folder} cannot be read ({error}): fetch or train the weights again") from error
    repair = "choose weights for this encoder, or train it again (synctva train-encoder)"
    if not isinstance(written, dict) or written.get("format_version") != FORMAT_VERSION:
        raise EncoderWeightsError(f"{where} is not of format version {FORMAT_VERSION}: {repair}")
    if written.get("architecture") != build.ARCHITECTURE:
        raise EncoderWeightsError(
            f"{where} is for {written.get('architecture')!r}, but {build.ARCHITECTURE!r} is needed: {repair}"
        )
    if written.get("labels") != list(labels):
        raise EncoderWeightsError(f"{where} has the classes {written.get('labels')}, not {list(labels)}: {repair}")
    try:
        network = build(configure(classes=len(labels), **written["network"]))
        name, training = str(written["name"]), dict(written["training"])
        network.load_state_dict(
            {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise EncoderWeightsError(f"{folder} does not hold such a network ({error}): {repair}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise EncoderWeightsError(f"{folder / TENSORS} holds NaN or infinity: the training failed, train again")
    return network.eval(), name, training
