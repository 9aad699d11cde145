"""The emotion network's weights: what is special to them above :mod:`synctva_ros.weights.files`.

``model.json`` also holds::

    {
      "architecture": "sync-tva",           which kind of network
      "name": "synctva-...",                the model_id that every estimate carries
      "labels": ["neutral", ...],           the order of the outputs
      "encoders": {"text": {"name": "...", "width": 384}, "audio": {...}, "vision": {...}},
                                            width 0: the network has no such modality; its encoder is then "none"
      "network": {"hidden": 128, ...},      the network's config but for widths and classes, which follow from the above
      "temperature": [1.2, 1.1, 0.9]        of text, audio and vision, see SyncTVA.probabilities
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synctva_ros.events import MODALITIES
from synctva_ros.weights.files import DESCRIPTION, WeightsError, check_labels, check_tensors, locate, read, using, write

from .synctva import SyncTVA, SyncTVAConfig

#: For each name of an architecture the class of the network and of its config.
Architectures = Mapping[str, tuple[type[nn.Module], type]]
SYNC_TVA: Architectures = {SyncTVA.ARCHITECTURE: (SyncTVA, SyncTVAConfig)}


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


def save(model: Any, folder: Path | str, description: Description) -> None:
    """Write the model and its temperature to ``folder``, which is created if need be.

    Args:
        model: a module with ``ARCHITECTURE``, ``temperature`` and a dataclass ``config``, of which alone it is made,
            with ``widths``, ``classes`` and other values that JSON can hold.
        folder: gets the two files.
        description: what it says of itself.

    Raises:
        WeightsError: the description does not fit the model.
    """
    check_labels(description.labels, model.config.classes)
    _check_encoders(description, "the description")
    network = asdict(model.config)
    widths = network.pop("widths")
    del network["classes"]
    about = {
        "labels": list(description.labels),
        "encoders": {
            modality: {"name": description.encoders[modality], "width": width}
            for modality, width in zip(MODALITIES, widths, strict=True)
        },
        "network": network,
        "temperature": list(model.temperature),
        "training": description.training,
    }
    write(Path(folder), model.ARCHITECTURE, description.model_id, model.state_dict(), about)


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    labels: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    architectures: Architectures = SYNC_TVA,
) -> tuple[Any, Description]:
    """Read a model, ready for inference.

    Args:
        folder: where :func:`save` wrote it, or the name of weights that come with the package.
        device: where the model shall run.
        labels: the classes that the caller expects, in order; None accepts any.
        encoders: per modality the name of the encoder that the caller runs; modalities left out, or None, accept any.
        architectures: the networks that the caller can run.

    Raises:
        WeightsError: a file is missing or unreadable, or format version, architecture, labels, encoders or tensors are
            not what is needed.
    """
    folder = locate(folder)
    where = folder / DESCRIPTION
    written, tensors = read(folder, architectures, labels)
    with using(folder):
        build, configure = architectures[written["architecture"]]
        description = Description(
            model_id=written["name"],
            labels=tuple(written["labels"]),
            encoders={modality: written["encoders"][modality]["name"] for modality in MODALITIES},
            training=written["training"],
        )
        text, audio, vision = (int(written["encoders"][modality]["width"]) for modality in MODALITIES)
        config = configure(widths=(text, audio, vision), classes=len(description.labels), **written["network"])
        model: Any = build(config)
        text_t, audio_t, vision_t = (float(value) for value in written["temperature"])
    model.temperature = (text_t, audio_t, vision_t)
    if not all(math.isfinite(value) and value > 0.0 for value in model.temperature):
        raise WeightsError(f"{where}: temperatures must be positive numbers, not {model.temperature}: fit them again")
    check_labels(description.labels, config.classes, where)
    _check_encoders(description, where)
    for modality, name in (encoders or {}).items():
        if modality not in MODALITIES:
            raise WeightsError(f"there is no modality {modality!r}: name encoders for {', '.join(MODALITIES)}")
        if name != description.encoders[modality]:
            raise WeightsError(
                f"{where} was trained with the {modality} encoder {description.encoders[modality]!r}, but {name!r} is "
                "running: run that encoder or choose other weights"
            )
    check_tensors(folder, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.to(device).eval(), description


def _check_encoders(description: Description, where: Path | str) -> None:
    for modality in MODALITIES:
        name = description.encoders.get(modality)
        if not isinstance(name, str) or not name:
            raise WeightsError(
                f"{where}: the {modality} encoder has no name: say which one it was trained with, or none"
            )
