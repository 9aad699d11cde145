"""The weights of our voice and face encoders: what is special to them above :mod:`synctva_ros.weights.files`.

``model.json`` also holds ``labels``, what the outputs stand for, and ``network``, the network's config but for its
number of classes. ``name`` is what the emotion network's weights ask for.

The tensors are stored in half precision, which changes no figure that we give, and computed with in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synctva_ros.weights.files import check_labels, halved, locate, read, restore, using, write


def save_encoder(network: Any, folder: Path, name: str, labels: Sequence[str], training: dict[str, Any]) -> None:
    """Write an encoder's network to ``folder``, which is created if need be.

    Args:
        network: a module with ``ARCHITECTURE`` and a dataclass ``config`` that has ``classes``.
        folder: gets the two files.
        name: name and version of the encoder.
        labels: of the outputs, in order.
        training: what it was trained on and how well it does.

    Raises:
        WeightsError: there are more or fewer labels than outputs.
    """
    config = asdict(network.config)
    check_labels(labels, config.pop("classes"))
    about = {"labels": list(labels), "network": config, "training": training}
    write(folder, network.ARCHITECTURE, name, halved(network), about)


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
        WeightsError: a file is missing or unreadable, or of another format, architecture, shape or labels.
    """
    folder = locate(weights)
    written, halves = read(folder, [build.ARCHITECTURE], labels)
    with using(folder):
        network = build(configure(classes=len(labels), **written["network"]))
    restore(folder, network, halves)
    return network, written["name"], written["training"]
