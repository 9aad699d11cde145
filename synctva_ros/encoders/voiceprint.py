"""Whose voice it is, as a vector: a small network that was taught by CAM++ (:mod:`.campplus`) and by people's names.

Residual convolutions look at the filter banks as at a picture; convolutions over time follow, further and further
apart, each weighed by its channels' mean over the utterance (Desplanques et al. 2020, https://arxiv.org/abs/2005.07143);
frames are averaged as much as they say of the voice (Okabe et al. 2018, https://arxiv.org/abs/1803.10963).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctva_ros.encoders.campplus import SHORTEST, fbank
from synctva_ros.encoders.residual import ResidualBlock
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.weights import VOICEPRINT
from synctva_ros.weights.files import locate, read, restore, using

_BANDS = 80
#: Longer sound says no more [s].
_LONGEST = 10.0


@dataclass(frozen=True)
class VoiceprintConfig:
    """Shape of the network.

    Attributes:
        picture: channels of the first convolutions; those after have twice as many.
        width: channels over time.
        dilations: of the blocks over time.
        out: width of the vector.
    """

    picture: int = 16
    width: int = 256
    dilations: tuple[int, ...] = (1, 2, 3)
    out: int = 192


class VoiceprintNetwork(nn.Module):
    """Filter banks ``[n, frames, 80]`` → vectors ``[n, out]`` of length 1."""

    ARCHITECTURE = "voiceprint"

    def __init__(self, config: VoiceprintConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VoiceprintConfig()
        picture, width = config.picture, config.width
        self.picture = nn.Sequential(
            nn.Conv2d(1, picture, 3, 2, 1, bias=False),
            nn.BatchNorm2d(picture),
            nn.ReLU(inplace=True),
            ResidualBlock(picture, 2 * picture, 2, project=True),
            ResidualBlock(2 * picture, 2 * picture, 1, project=False),
        )
        self.first = _convolution(2 * picture * _BANDS // 4, width, 1)
        self.blocks = nn.ModuleList([_Block(width, dilation) for dilation in config.dilations])
        self.last = _convolution(width, 2 * width, 1)
        self.attention = nn.Sequential(nn.Conv1d(2 * width, 64, 1), nn.Tanh(), nn.Conv1d(64, 2 * width, 1))
        self.out = nn.Sequential(nn.BatchNorm1d(4 * width), nn.Linear(4 * width, config.out))

    def forward(self, bands: Tensor) -> Tensor:
        """See the class."""
        frames = self.first(self.picture(bands.transpose(1, 2).unsqueeze(1)).flatten(1, 2))
        for block in self.blocks:
            frames = block(frames)
        frames = self.last(frames)
        weight = self.attention(frames).softmax(dim=-1)
        mean = (weight * frames).sum(dim=-1)
        deviation = ((weight * frames.square()).sum(dim=-1) - mean.square()).clamp_min(1e-5).sqrt()
        return F.normalize(self.out(torch.cat([mean, deviation], dim=-1)), dim=-1)


def _convolution(width: int, out: int, reach: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(width, out, reach, padding=reach // 2 * dilation, dilation=dilation, bias=False),
        nn.BatchNorm1d(out),
        nn.ReLU(inplace=True),
    )


class _Block(nn.Module):
    """Convolutions over time, added to what came in."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            _convolution(width, half, 1), _convolution(half, half, 3, dilation), _convolution(half, width, 1)
        )
        self.weigh = nn.Sequential(nn.Linear(width, 64), nn.ReLU(inplace=True), nn.Linear(64, width), nn.Sigmoid())

    def forward(self, frames: Tensor) -> Tensor:
        out = self.body(frames)
        weighed: Tensor = frames + out * self.weigh(out.mean(dim=-1)).unsqueeze(-1)
        return weighed


class VoiceprintEncoder:
    """Vectors of voices by our own network.

    Args:
        weights: name of weights that come with the package, or a folder; empty for ``voiceprint``.

    Raises:
        WeightsError: a file is missing or unreadable, or of another format, architecture or shape.
    """

    modality: ClassVar[str] = "speaker"

    def __init__(self, weights: str = "") -> None:
        folder = locate(weights or VOICEPRINT)
        written, halves = read(folder, [VoiceprintNetwork.ARCHITECTURE])
        with using(folder):
            shape = dict(written["network"])
            self._network = VoiceprintNetwork(VoiceprintConfig(**shape | {"dilations": tuple(shape["dilations"])}))
            #: See :class:`.protocol.SpeakerEncoder`.
            self.same = float(written["same"])
        restore(folder, self._network, halves)
        self.name: str = written["name"]
        self.width: int = self._network.config.out

    @torch.inference_mode()
    def encode(self, samples: FloatArray, sample_rate: int = SAMPLE_RATE) -> FloatArray | None:
        """Vector ``[width]`` of length 1 of mono sound ``[n]`` at 16 kHz; None if silent or shorter than 0.3 s."""
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"{self.name} hears sound at {SAMPLE_RATE} Hz, not at {sample_rate}")
        if len(samples) < SHORTEST * SAMPLE_RATE or not np.any(samples):
            return None
        sound = torch.from_numpy(np.asarray(samples[: round(_LONGEST * SAMPLE_RATE)], np.float32))
        vector: FloatArray = self._network(fbank(sound).unsqueeze(0))[0].numpy()
        return vector
