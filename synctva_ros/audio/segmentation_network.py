"""The network that hears, as sound comes, whether somebody in front speaks, whether two do, and who is new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctva_ros.events import SAMPLE_RATE
from synctva_ros.weights.files import locate, read, restore, using

HOP, WINDOW, FFT = 160, 400, 512
_LOWEST, _HIGHEST = 90.0, 7600.0
#: Mel frames of 10 ms that become one frame.
STRIDE = 4
#: Samples of a frame.
FRAME = STRIDE * HOP
OUTPUTS = ("front", "overlap", "change")


@dataclass(frozen=True)
class SegmentationConfig:
    """Shape of the network.

    Attributes:
        bands: of the mel spectrogram.
        width: channels of the convolutions.
        hidden: channels of each recurrent layer.
        layers: recurrent ones.
        look_ahead: frames after a moment that are heard before it is judged.
        voice: channels of the vector that tells voices apart in the training.
    """

    bands: int = 48
    width: int = 128
    hidden: int = 256
    layers: int = 2
    look_ahead: int = 10
    voice: int = 64


@dataclass(frozen=True)
class State:
    """What the network keeps of the stream: the newest samples, mel frames and channels, and the recurrent state."""

    samples: Tensor
    mel: Tensor
    channels: Tensor
    recurrent: Tensor | None


class SegmentationNetwork(nn.Module):
    """Convolutions that only look back, then recurrent layers; what comes out is of ``look_ahead`` frames ago."""

    ARCHITECTURE = "causal-segmentation"

    window: Tensor
    filters: Tensor

    def __init__(self, config: SegmentationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SegmentationConfig()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", _mel_filters(config.bands), persistent=False)
        self.first = nn.Conv1d(config.bands, config.width, 6, stride=2)
        self.second = nn.Conv1d(config.width, config.width, 4, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm1d(config.width) for _ in range(2)])
        self.recurrent = nn.GRU(config.width, config.hidden, config.layers, batch_first=True)
        self.head = nn.Sequential(nn.Linear(config.hidden, 96), nn.ReLU(), nn.Linear(96, len(OUTPUTS)))
        self.voice = nn.Linear(config.hidden, config.voice)

    def start(self, streams: int = 1) -> State:
        """The state before any sound: silence."""
        config = self.config
        mel = self._mel(torch.zeros(streams, WINDOW - HOP + 4 * HOP))
        return State(torch.zeros(streams, WINDOW - HOP), mel, torch.zeros(streams, config.width, 2), None)

    def forward(self, sound: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Hear the next sound ``[streams, n]``, n a multiple of ``FRAME``.

        Returns:
            Logits of ``OUTPUTS`` ``[streams, n / FRAME, 3]`` of ``look_ahead`` frames ago, vectors of the voice that
            speaks then ``[streams, n / FRAME, voice]``, and the state for what comes next.
        """
        heard = torch.cat([state.samples, sound], dim=1)
        mel = torch.cat([state.mel, self._mel(heard)], dim=2)
        channels = F.relu(self.norms[0](self.first(mel)))
        channels = torch.cat([state.channels, channels], dim=2)
        frames = F.relu(self.norms[1](self.second(channels)))
        hidden, recurrent = self.recurrent(frames.transpose(1, 2), state.recurrent)
        after = State(heard[:, -(WINDOW - HOP) :], mel[:, :, -4:], channels[:, :, -2:], recurrent)
        return self.head(hidden), self.voice(hidden), after

    def _mel(self, sound: Tensor) -> Tensor:
        """``[streams, bands, frames]`` of about unit size."""
        spectrum = torch.fft.rfft(sound.unfold(1, WINDOW, HOP) * self.window, FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        return ((torch.log(power @ self.filters + 1e-7) + 4.0) / 4.0).transpose(1, 2)


def _mel_filters(bands: int) -> Tensor:
    """Triangles on the mel scale: ``[FFT / 2 + 1, bands]``."""

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(_LOWEST), mel(_HIGHEST), bands + 2)
    bins = mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rise, fall))).float()


def load_segmentation(weights: str) -> SegmentationNetwork:
    """Read a network, ready for inference on the CPU.

    Args:
        weights: name of a shipped folder, or a path.

    Raises:
        WeightsError: a file is missing or unreadable, or of another format, architecture or shape.
    """
    folder = locate(weights)
    written, halves = read(folder, [SegmentationNetwork.ARCHITECTURE])
    with using(folder):
        network = SegmentationNetwork(SegmentationConfig(**written["network"]))
    restore(folder, network, halves)
    return network
