"""Whether it is somebody in front who speaks, whether two do, and who is new: what no detector of voices says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from synctva_ros.audio.vad import FRAME
from synctva_ros.config import Turns
from synctva_ros.events import FloatArray
from synctva_ros.weights import SEGMENTATION


@dataclass(frozen=True, eq=False)
class Activity:
    """Probabilities of the next frames of 10 ms ``[n]`` each.

    Attributes:
        front: somebody in front speaks.
        overlap: two or more of them do.
        change: somebody begins who is not the one that spoke last.
    """

    front: FloatArray
    overlap: FloatArray
    change: FloatArray

    def __len__(self) -> int:
        return len(self.front)


NOTHING = Activity(*(np.zeros(0, np.float32),) * 3)


class Segmenter(Protocol):
    """Judges a stream as it comes, each frame a while after it was heard."""

    def reset(self) -> None:
        """Forget what came before: another stream begins."""

    def push(self, samples: FloatArray) -> Activity:
        """Hear the next samples ``[n]`` at 16 kHz, without hum and offset; judge what can be judged by now."""


class CausalSegmenter:
    """Our network, its state kept over the stream.

    Args:
        weights: name of a shipped folder, or a path; empty for ``segmentation``.

    Raises:
        WeightsError: they cannot be used.
    """

    def __init__(self, weights: str = "") -> None:
        from synctva_ros.audio.segmentation_network import FRAME as STEP
        from synctva_ros.audio.segmentation_network import load_segmentation

        self._network = load_segmentation(weights or SEGMENTATION)
        self._step = STEP
        self.reset()

    def reset(self) -> None:
        """See :class:`Segmenter`."""
        self._rest: FloatArray = np.zeros(0, np.float32)
        self._state = self._network.start()
        self._early = self._network.config.look_ahead  # frames that come before the stream has begun

    def push(self, samples: FloatArray) -> Activity:
        """See :class:`Segmenter`."""
        import torch

        heard = np.concatenate([self._rest, samples])
        whole = len(heard) // self._step * self._step
        self._rest = heard[whole:]
        if not whole:
            return NOTHING
        with torch.inference_mode():
            logits, _, self._state = self._network(torch.from_numpy(heard[None, :whole]), self._state)
            said = torch.sigmoid(logits[0, self._early :]).numpy()
        self._early = max(self._early - whole // self._step, 0)
        return Activity(*np.repeat(said, self._step // FRAME, axis=0).T)


def create_segmenter(config: Turns) -> Segmenter | None:
    """The segmenter that the parameters name, if they name one.

    Raises:
        WeightsError: its weights cannot be used.
    """
    if config.segmenter == "causal":
        return CausalSegmenter(config.segmenter_weights)
    if config.segmenter == "pyannote":
        from synctva_ros.audio.pyannet import PyannoteSegmenter

        return PyannoteSegmenter(config.segmenter_weights)
    return None
