"""What Whisper's encoder knows of a voice: the states of its first layers (https://arxiv.org/abs/2212.04356).

A recogniser for words has to know how a voice sounds, and its lower layers have not yet thrown that away. Whisper
itself fills all sound up to 30 s; here the first layers run on the speech alone. The weights are those of the file that
the packaged recogniser loads; its own run would give the states later, and only those of the last layer.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from synctva_ros.events import SAMPLE_RATE
from synctva_ros.weights import WeightsError

#: Layers whose states are taken, and the width of one state.
LAYERS, WIDTH = 3, 384
_HEADS, _BANDS, _WINDOW, _HOP, _POSITIONS = 6, 80, 400, 160, 1500
#: Level that sound is brought to (root mean square, full scale 1): Whisper was trained with speech of about that.
_LEVEL = 0.05
#: What CTranslate2 writes at the beginning, and its types of numbers.
_FORMAT, _SPECIFICATION = 6, "WhisperSpec"
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class _Block(nn.Module):
    """A layer of a transformer: attention, then two linear ones, each behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out_projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """States ``[n, time, 384]`` of the next layer."""
        n, time, _ = states.shape
        qkv = self.qkv(self.attention_norm(states)).view(n, time, 3, _HEADS, WIDTH // _HEADS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        heard = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, time, WIDTH)
        states = states + self.out_projection(heard)
        out: Tensor = states + self.fc2(gelu(self.fc1(self.mlp_norm(states))))
        return out


class WhisperStates(nn.Module):
    """The first layers of the encoder of Whisper tiny."""

    filters: Tensor
    window: Tensor
    positions: Tensor

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.first = nn.Conv1d(_BANDS, WIDTH, 3, padding=1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.register_buffer("positions", torch.zeros(_POSITIONS, WIDTH))
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        filters = mel_filter_bank(
            _WINDOW // 2 + 1, _BANDS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()).float(), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Mean and deviation over the time of each layer's states ``[layers * 2 * 384]``.

        Args:
            sound: ``[samples]`` at 16 kHz with root mean square 1, 0.1 to 30 s.
        """
        spectrum = torch.stft(sound * _LEVEL, _WINDOW, _HOP, _WINDOW, self.window, return_complex=True)
        mel = (self.filters @ spectrum[:, :-1].abs().square()).clamp_min(1e-10).log10()
        mel = (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
        mel = mel[:, : mel.shape[1] // 2 * 2]
        states = gelu(self.second(gelu(self.first(mel.unsqueeze(0))))).transpose(1, 2)
        states = states + self.positions[: states.shape[1]]
        told = []
        for block in self.blocks:
            states = block(states)
            told += [states[0].mean(dim=0), states[0].std(dim=0)]
        return torch.cat(told)


def read_states(file: Path) -> WhisperStates:
    """The layers out of a Whisper tiny that CTranslate2 has converted (``model.bin``).

    Raises:
        WeightsError: it is no such file.
    """
    try:
        with file.open("rb") as stream:
            tensors = _read(stream)
        network = WhisperStates()
        network.load_state_dict({name: tensors[path] for name, path in _names().items()})
    except (OSError, KeyError, ValueError, RuntimeError, struct.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} holds no encoder of Whisper tiny ({error})") from error
    return network.eval()


def _names() -> dict[str, str]:
    """Where each of our tensors stands in the file."""
    names = {"positions": "encoder/position_encodings/encodings"}
    for ours, theirs in (("first", "conv1"), ("second", "conv2")):
        names |= {f"{ours}.{kind}": f"encoder/{theirs}/{kind}" for kind in ("weight", "bias")}
    parts = {
        "attention_norm": ("self_attention/layer_norm", "gamma", "beta"),
        "qkv": ("self_attention/linear_0", "weight", "bias"),
        "out_projection": ("self_attention/linear_1", "weight", "bias"),
        "mlp_norm": ("ffn/layer_norm", "gamma", "beta"),
        "fc1": ("ffn/linear_0", "weight", "bias"),
        "fc2": ("ffn/linear_1", "weight", "bias"),
    }
    for layer in range(LAYERS):
        for ours, (theirs, weight, bias) in parts.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"encoder/layer_{layer}/{theirs}/{weight}"
            names[f"blocks.{layer}.{ours}.bias"] = f"encoder/layer_{layer}/{theirs}/{bias}"
    return names


def _read(stream: BinaryIO) -> dict[str, Tensor]:
    """The encoder's tensors: behind the header a name, a shape, a type and the numbers of each."""

    def number(kind: str) -> int:
        return int(struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0])

    def name() -> str:
        return stream.read(number("H")).rstrip(b"\0").decode()

    if (version := number("I")) != _FORMAT or (specification := name()) != _SPECIFICATION:
        raise ValueError(f"format {version}, {'' if version != _FORMAT else specification}")
    number("I")  # revision of the specification
    tensors = {}
    for _ in range(number("I")):
        path = name()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        raw = stream.read(size)
        if path.startswith("encoder/") and shape:
            tensors[path] = torch.from_numpy(np.frombuffer(raw, _TYPES[kind]).reshape(shape).astype(np.float32))
    return tensors
