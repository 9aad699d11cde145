"""A trained network on disk: ``model.safetensors`` and ``model.json`` in one folder. Nothing is unpickled.

``model.json`` holds::

    {
      "format_version": 2,
      "architecture": "sync-tva",           which kind of network, see Network
      "model_id": "synctva-...",            name and version, carried by every estimate
      "labels": ["neutral", ...],           the order of the outputs
      "encoders": {"text": {"name": "...", "width": 384}, "audio": {...}, "vision": {...}},
                                            width 0: the network has no such modality; its encoder is then "none"
      "network": {"hidden": 128, ...},      the network's config but for widths and classes, which follow from the above
      "temperature": [1.2, 1.1, 0.9],       of text, audio and vision, see SyncTVA.probabilities
      "training": {...}                     what it was trained on and how well it does; for people, not read back
    }
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from .synctva import MODALITIES, SyncTVA, SyncTVAConfig

FORMAT_VERSION = 2
TENSORS = "model.safetensors"
DESCRIPTION = "model.json"
#: For each name of an architecture the class of the network and of its config.
Architectures = Mapping[str, tuple[type[nn.Module], type]]
SYNC_TVA: Architectures = {SyncTVA.ARCHITECTURE: (SyncTVA, SyncTVAConfig)}


class WeightsError(ValueError):
    """The weights cannot be used; the message says which part of them and what to do."""


class Network(Protocol):
    """What can be saved: a torch module, made of its config alone.

    Attributes:
        ARCHITECTURE: name of its kind.
        config: a dataclass with ``widths`` and ``classes``, whose other values JSON can hold.
        temperature: of text, audio and vision.
    """

    ARCHITECTURE: ClassVar[str]
    config: Any
    temperature: tuple[float, float, float]

    def state_dict(self) -> dict[str, Any]:
        """Its tensors by name, as ``torch.nn.Module`` gives them."""


@dataclass(frozen=True)
class Description:
    """What a weights folder says of itself.

    Attributes:
        model_id: name and version.
        labels: the classes, in the order of the outputs.
        encoders: per modality (text, audio, vision) the name and version of the encoder it was trained with; "none"
            for a modality that the network does not have.
        training: data, figures and limits, for people.
    """

    model_id: str
    labels: tuple[str, ...]
    encoders: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)


def save(model: Network, folder: Path | str, description: Description) -> None:
    """Write the model and its temperature to ``folder``, which is created if need be.

    Raises:
        WeightsError: the description does not fit the model.
    """
    _check_description(description, model.config.classes, "the description")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = asdict(model.config)
    widths = network.pop("widths")
    del network["classes"]
    written = {
        "format_version": FORMAT_VERSION,
        "architecture": model.ARCHITECTURE,
        "model_id": description.model_id,
        "labels": list(description.labels),
        "encoders": {
            modality: {"name": description.encoders[modality], "width": width}
            for modality, width in zip(MODALITIES, widths, strict=True)
        },
        "network": network,
        "temperature": list(model.temperature),
        "training": description.training,
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    (folder / TENSORS).write_bytes(to_bytes(tensors))
    (folder / DESCRIPTION).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@overload
def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
) -> tuple[SyncTVA, Description]: ...


@overload
def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    architectures: Architectures,
) -> tuple[nn.Module, Description]: ...


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    architectures: Architectures = SYNC_TVA,
) -> tuple[nn.Module, Description]:
    """Read a model, ready for inference.

    Args:
        folder: where :func:`save` wrote it.
        device: where the model shall run.
        labels: the classes that the caller expects, in order; None accepts any.
        encoders: per modality the name of the encoder that the caller runs; modalities left out, or None, accept any.
        architectures: the networks that the caller can run.

    Raises:
        WeightsError: a file is missing or unreadable, or format version, architecture, labels, encoders or tensors are
            not what is needed.
    """
    folder = Path(folder)
    written = _read_json(folder / DESCRIPTION)
    where = str(folder / DESCRIPTION)
    architecture = written.get("architecture")
    if not isinstance(architecture, str) or architecture not in architectures:
        raise WeightsError(
            f"{where} is for a network of the architecture {architecture!r}, this program runs "
            f"{', '.join(architectures)}: choose weights of such a network"
        )
    build, configure = architectures[architecture]
    try:
        description = Description(
            model_id=written["model_id"],
            labels=tuple(written["labels"]),
            encoders={modality: written["encoders"][modality]["name"] for modality in MODALITIES},
            training=written["training"],
        )
        text, audio, vision = (int(written["encoders"][modality]["width"]) for modality in MODALITIES)
        config = configure(widths=(text, audio, vision), classes=len(description.labels), **written["network"])
        model: Any = build(config)
        text_t, audio_t, vision_t = (float(value) for value in written["temperature"])
    except KeyError as error:
        raise WeightsError(f"{where} has no entry {error}: write the folder again with weights.save") from error
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where} cannot be used: {error}. Write the folder again with weights.save") from error
    temperature = (text_t, audio_t, vision_t)
    if not all(math.isfinite(value) and value > 0.0 for value in temperature):
        raise WeightsError(f"{where}: temperatures must be positive numbers, not {temperature}: fit them again")
    _check_description(description, config.classes, where)
    if labels is not None and tuple(labels) != description.labels:
        raise WeightsError(
            f"{where} is for the classes {', '.join(description.labels)}, but {', '.join(labels)} are wanted: "
            "choose weights that were trained for these classes"
        )
    for modality, name in (encoders or {}).items():
        if modality not in MODALITIES:
            raise WeightsError(f"there is no modality {modality!r}: name encoders for {', '.join(MODALITIES)}")
        if name != description.encoders[modality]:
            raise WeightsError(
                f"{where} was trained with the {modality} encoder {description.encoders[modality]!r}, but {name!r} is "
                "running: run that encoder or choose other weights"
            )

    _load_tensors(model, folder / TENSORS)
    model.temperature = temperature
    return model.to(device).eval(), description


def _read_json(path: Path) -> dict[str, Any]:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing: give the folder that holds {DESCRIPTION} and {TENSORS}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}): fetch or write the weights again") from error
    if not isinstance(written, dict):
        raise WeightsError(f"{path} must hold a JSON object: fetch or write the weights again")
    version = written.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version!r}, this program reads {FORMAT_VERSION}: "
            "use weights of that version or the program that they were made for"
        )
    return written


def _check_description(description: Description, classes: int, where: str) -> None:
    if not isinstance(description.model_id, str) or not description.model_id:
        raise WeightsError(f"{where}: model_id must be a text that is not empty: name the model")
    labels = description.labels
    if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) != len(labels):
        raise WeightsError(f"{where}: labels must be different, non-empty texts, not {list(labels)}: correct them")
    if len(labels) != classes:
        raise WeightsError(f"{where}: {len(labels)} labels for {classes} outputs: give one label per output")
    for modality in MODALITIES:
        name = description.encoders.get(modality)
        if not isinstance(name, str) or not name:
            raise WeightsError(
                f"{where}: the {modality} encoder has no name: say which one it was trained with, or none"
            )


def _load_tensors(model: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing: give the folder that holds {DESCRIPTION} and {TENSORS}") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no safetensors file ({error}): fetch or write the weights again") from error
    wanted = model.state_dict()
    repair = f"{DESCRIPTION} and {TENSORS} are not of the same model: fetch or write both again"
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
    model.load_state_dict(tensors)
