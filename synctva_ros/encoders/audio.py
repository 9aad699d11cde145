"""Voice of an utterance → how much it sounds like each emotion."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from scipy import signal

from synctva_ros.encoders.functionals import AcousticFunctionals
from synctva_ros.encoders.voice_network import VoiceNetwork, VoiceNetworkConfig
from synctva_ros.encoders.weights import load_encoder
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, FloatArray
from synctva_ros.weights import VOICE
from synctva_ros.weights.files import WeightsError

# Root mean square below which there is nothing to hear: 16 bits resolve 3e-5.
_SILENCE = 1e-6
# Shorter sound is filled up with silence [samples].
_SHORTEST = SAMPLE_RATE // 5
# Longer sound is heard in parts of at most this length [samples], whose answers are averaged: the memory stays small.
_LONGEST = 15 * SAMPLE_RATE


class AudioEncoder:
    """What our voice network (:mod:`.voice_network`) makes of an utterance.

    Its vector holds the logarithm of each class's probability, averaged over the network's members, relative to the
    mean over the classes: 0 everywhere means that the voice says nothing.
    """

    modality: ClassVar[str] = "audio"

    def __init__(self, weights: str = "") -> None:
        """Load the network.

        Args:
            weights: name of weights that come with the package, or a folder; empty for ``voice_emotion``.

        Raises:
            WeightsError: They are missing, damaged, or of another encoder.
        """
        weights = weights or VOICE
        self.network: VoiceNetwork
        self.network, self.name, self.training = load_encoder(weights, VoiceNetwork, VoiceNetworkConfig, EMOTIONS)
        self.width: int = len(EMOTIONS)
        self._functionals = AcousticFunctionals()
        if self.network.config.functionals != self._functionals.width:
            raise WeightsError(
                f"{weights} is for {self.network.config.functionals} acoustic functionals, here there are "
                f"{self._functionals.width}: train the encoder again (synctva train-encoder voice)"
            )

    def encode(self, samples: FloatArray, sample_rate: int = SAMPLE_RATE) -> FloatArray | None:
        """Vector ``[width]`` of mono sound ``[n]``; None for silence, which is no voice.

        Raises:
            ValueError: Not mono, empty, not finite, or an impossible sample rate.
        """
        sound = as_speech(samples, sample_rate)
        return None if sound is None else np.asarray(self.encode_members(sound).mean(axis=0))

    @torch.inference_mode()
    def encode_members(self, sound: FloatArray) -> FloatArray:
        """What each member says ``[members, width]`` to sound ``[n]`` at 16 kHz, as from :func:`as_speech`."""
        # Each part is brought to the same level again; of a long sound some may be silent.
        parts = [as_speech(part, SAMPLE_RATE) for part in np.array_split(sound, math.ceil(len(sound) / _LONGEST))]
        answers = []
        for part in parts:
            if part is None:
                continue
            row, length = torch.from_numpy(part.copy()).unsqueeze(0), torch.tensor([len(part)])
            functionals = torch.from_numpy(self._functionals.of(part)).unsqueeze(0)
            answers.append(self.network(row, length, functionals)[:, 0])
        mean = torch.stack(answers).mean(dim=0)
        vectors: FloatArray = (mean - mean.mean(dim=1, keepdim=True)).numpy()
        return vectors


def as_speech(samples: FloatArray, sample_rate: int) -> FloatArray | None:
    """Mono sound ``[n]`` at 16 kHz, free of an offset, with root mean square 1, at least 0.2 s; None for silence.

    Raises:
        ValueError: Not mono, empty, not finite, or an impossible sample rate.
    """
    sound = np.asarray(samples)
    if sound.ndim != 1 or sound.size == 0:
        raise ValueError(f"audio encoder: samples have shape {sound.shape}; give mono sound [n] with n > 0")
    if not np.issubdtype(sound.dtype, np.floating):
        raise ValueError(f"audio encoder: samples are {sound.dtype}; give float32 in [-1, 1]")
    if sample_rate <= 0:
        raise ValueError(f"audio encoder: sample rate is {sample_rate}; give it in Hz")
    bad = int(np.count_nonzero(~np.isfinite(sound)))
    if bad:
        raise ValueError(f"audio encoder: {bad} of {sound.size} samples are NaN or infinite; check the source")
    sound = sound.astype(np.float32)
    if sample_rate != SAMPLE_RATE:
        common = math.gcd(SAMPLE_RATE, sample_rate)
        sound = signal.resample_poly(sound, SAMPLE_RATE // common, sample_rate // common).astype(np.float32)
    sound -= sound.mean(dtype=np.float64)
    level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    if level < _SILENCE:
        return None
    return np.pad(sound / np.float32(level), (0, max(_SHORTEST - len(sound), 0)))
