"""The network that recognises an emotion in a voice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from synctva_ros.encoders.residual import ResidualBlock
from synctva_ros.events import SAMPLE_RATE

BANDS = 64
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST, _HIGHEST = 50.0, 7600.0
# What is this much weaker than the loudest cell (dB) is noise of the recording.
_RANGE = 80.0
# Frames that become one column of the last stage.
_STRIDE = 8


@dataclass(frozen=True)
class VoiceNetworkConfig:
    """Shape of the network.

    Attributes:
        classes: emotions.
        members: pairs of networks whose answers are averaged.
        width: channels of a spectrum network's first stage; the second has twice, the third four times as many.
        summary: channels that a spectrum network pools over time.
        functionals: how many a prosody network gets.
        hidden: channels of a prosody network.
        dropout: before the last layer.
    """

    classes: int
    members: int = 5
    width: int = 16
    summary: int = 192
    functionals: int = 212
    hidden: int = 128
    dropout: float = 0.3


class LogMel(nn.Module):
    """Spectrum of sound on the mel scale, in steps of 10 ms.

    In units of 10 dB and relative to the utterance's own mean, so that gain and distance do not matter.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("filters", _mel_filters(), persistent=False)

    def forward(self, sound: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Analyse sound ``[n, samples]`` of which ``length [n]`` samples count.

        Returns:
            ``[n, 1, 64, frames]``, and which frames are there ``[n, frames]``; the others are 0.
        """
        spectrum = torch.stft(
            sound, _FFT, _HOP, _WINDOW, self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        decibel = 10.0 * torch.log10(self.filters @ power + 1e-10)
        there = torch.arange(decibel.shape[-1], device=sound.device) < (length // _HOP + 1).unsqueeze(1)
        cells = there.unsqueeze(1)
        decibel = decibel.masked_fill(~cells, -math.inf)
        decibel = torch.maximum(decibel, decibel.amax(dim=(1, 2), keepdim=True) - _RANGE)
        mean = (decibel * cells).sum(dim=(1, 2), keepdim=True) / (BANDS * cells.sum(dim=(1, 2), keepdim=True))
        return ((decibel - mean) / 10.0 * cells).unsqueeze(1), there


class SpectrumNetwork(nn.Module):
    """A residual network over the log-mel spectrogram, pooled over time with attention.

    Pooled are mean and deviation of each channel, weighted with how informative each moment is (attentive statistics,
    Okabe et al., https://arxiv.org/abs/1803.10963), so an utterance may have any length.
    """

    def __init__(self, config: VoiceNetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.body = nn.Sequential(
            ResidualBlock(width, width, 1, project=True),
            ResidualBlock(width, 2 * width, 2, project=True),
            ResidualBlock(2 * width, 2 * width, 1, project=True),
            ResidualBlock(2 * width, 4 * width, 2, project=True),
            ResidualBlock(4 * width, 4 * width, 1, project=True),
        )
        self.mix = nn.Sequential(
            nn.Conv1d(4 * width * BANDS // _STRIDE, config.summary, 1, bias=False),
            nn.BatchNorm1d(config.summary),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Conv1d(config.summary, 1, 1)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(2 * config.summary, config.classes))

    def forward(self, mel: Tensor, there: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of spectrograms ``[n, 1, 64, frames]`` whose frames ``[n, frames]`` are there."""
        moments = self.mix(self.body(self.stem(mel)).flatten(1, 2))
        kept = nn.functional.max_pool1d(there.unsqueeze(1).float(), _STRIDE, ceil_mode=True) > 0.0
        score = self.attention(moments).float().masked_fill(~kept, -1e9)
        weight = torch.softmax(score, dim=-1)
        mean = (moments * weight).sum(dim=-1)
        variance = (moments.square() * weight).sum(dim=-1) - mean.square()
        logits: Tensor = self.head(torch.cat([mean, variance.clamp_min(1e-5).sqrt()], dim=1))
        return logits


class ProsodyNetwork(nn.Module):
    """One hidden layer over the acoustic functionals.

    They hold what a spectrogram shows badly: melody, rhythm, voice quality.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: VoiceNetworkConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.functionals))
        self.register_buffer("deviation", torch.ones(config.functionals))
        self.body = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(config.functionals, config.hidden),
            nn.GELU(),
            nn.LayerNorm(config.hidden),
            nn.Dropout(0.5),
            nn.Linear(config.hidden, config.classes),
        )

    @torch.no_grad()
    def fit(self, functionals: Tensor) -> None:
        """Take mean and deviation from those of the training clips ``[n, functionals]``."""
        self.mean.copy_(functionals.mean(dim=0))
        self.deviation.copy_(functionals.std(dim=0, correction=0).clamp_min(1e-3))

    def forward(self, functionals: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of functionals ``[n, functionals]``."""
        logits: Tensor = self.body(((functionals - self.mean) / self.deviation).clamp(-4.0, 4.0))
        return logits


class VoiceMember(nn.Module):
    """A spectrum and a prosody network that were trained on the same speakers."""

    def __init__(self, config: VoiceNetworkConfig) -> None:
        super().__init__()
        self.spectrum = SpectrumNetwork(config)
        self.prosody = ProsodyNetwork(config)

    def forward(self, mel: Tensor, there: Tensor, functionals: Tensor) -> Tensor:
        """Mean of the logarithms of both networks' probabilities ``[n, classes]``."""
        answers = self.spectrum(mel, there), self.prosody(functionals)
        return torch.stack([torch.log_softmax(logits, dim=-1) for logits in answers]).mean(dim=0)


class VoiceNetwork(nn.Module):
    """Several members, each trained without some of the speakers.

    For a speaker of the training data the member that has never heard them gives what the network makes of held-out
    speakers.
    """

    ARCHITECTURE: ClassVar[str] = "voice-residual"

    def __init__(self, config: VoiceNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel()
        self.members = nn.ModuleList(VoiceMember(config) for _ in range(config.members))

    def forward(self, sound: Tensor, length: Tensor, functionals: Tensor) -> Tensor:
        """What each member says ``[members, n, classes]``, as logarithms of probabilities.

        Args:
            sound: at 16 kHz, ``[n, samples]``; gain does not matter.
            length: how many samples of each row count ``[n]``.
            functionals: of each row ``[n, functionals]``, see :class:`.functionals.AcousticFunctionals`.
        """
        mel, there = self.log_mel(sound, length)
        return torch.stack([member(mel, there, functionals) for member in self.members])


def _mel_filters() -> Tensor:
    """Triangular filters ``[bands, bins]`` of equal width on the mel scale."""
    lowest, highest = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (_LOWEST, _HIGHEST))
    edges = 700.0 * (10.0 ** (torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE / _FFT)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0.0).float()
