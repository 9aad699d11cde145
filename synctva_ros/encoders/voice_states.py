"""Voice of an utterance, and what is usual for the person → how much it sounds like each emotion."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from synctva_ros.encoders.audio import as_speech
from synctva_ros.encoders.voice_heads import VoiceHeads, VoiceHeadsConfig
from synctva_ros.encoders.weights import load_encoder
from synctva_ros.encoders.whisper_states import LAYERS, WIDTH, WhisperStates, read_states
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, FloatArray
from synctva_ros.weights import VOICE_STATES, WeightsError
from synctva_ros.weights.packaged_whisper import packaged_whisper

#: Width of what is told of an utterance: mean and deviation over the time of each layer's states.
TOLD = LAYERS * 2 * WIDTH
# Shorter sound is filled up with silence, of longer sound the parts' states are averaged [samples].
_LONGEST = 15 * SAMPLE_RATE


class Usual:
    """How somebody usually speaks: the mean of their turns so far.

    Attributes:
        turns: how many.
        told: mean of what was told of them ``[width]``.
        moods: mean of the probabilities that each member gave them ``[members, classes]``.
    """

    def __init__(self, members: int) -> None:
        self.turns = 0
        self.told: FloatArray = np.zeros(TOLD, np.float32)
        self.moods: FloatArray = np.zeros((members, len(EMOTIONS)), np.float32)

    def add(self, told: FloatArray, probabilities: FloatArray) -> None:
        """Take one more turn."""
        self.turns += 1
        self.told = self.told + (told - self.told) / np.float32(self.turns)
        self.moods = self.moods + (probabilities - self.moods) / np.float32(self.turns)


class VoiceStatesEncoder:
    """What our heads (:mod:`.voice_heads`) make of the states of a recogniser's encoder (:mod:`.whisper_states`).

    Its vector is one of :class:`.audio.AudioEncoder`'s kind: the logarithm of each class's probability, averaged over
    the members, relative to the mean over the classes.
    """

    modality: ClassVar[str] = "audio"

    def __init__(self, weights: str = "") -> None:
        """Load the networks.

        Args:
            weights: name of weights that come with the package, or a folder; empty for ``voice_states``.

        Raises:
            WeightsError: they are missing, damaged or of another encoder, or the package that carries the recogniser is
                missing.
        """
        weights = weights or VOICE_STATES
        self.network: VoiceHeads
        self.network, self.name, self.training = load_encoder(weights, VoiceHeads, VoiceHeadsConfig, EMOTIONS)
        if self.network.config.width != TOLD:
            raise WeightsError(
                f"{weights} is for {self.network.config.width} numbers an utterance, here there are {TOLD}: train the "
                "encoder again (synctva train-encoder voice-states)"
            )
        self.width: int = len(EMOTIONS)
        self._states = packaged_states()

    def encode(self, samples: FloatArray, sample_rate: int = SAMPLE_RATE) -> FloatArray | None:
        """Vector ``[width]`` of mono sound ``[n]`` of a stranger; None for silence, which is no voice.

        Raises:
            ValueError: not mono, empty, not finite, or an impossible sample rate.
        """
        told = self.describe(samples, sample_rate)
        return None if told is None else self.judge(told, self.stranger())

    def describe(self, samples: FloatArray, sample_rate: int = SAMPLE_RATE) -> FloatArray | None:
        """What is told of an utterance, whoever speaks: ``[2304]``, None for silence. This is the slow part.

        Raises:
            ValueError: as of :meth:`encode`.
        """
        speech = as_speech(samples, sample_rate)
        return None if speech is None else describe(self._states, speech)

    def stranger(self) -> Usual:
        """Somebody of whom nothing is known."""
        return Usual(self.network.config.members)

    def judge(self, told: FloatArray, usual: Usual) -> FloatArray:
        """Vector ``[width]`` of what was told of an utterance, by somebody of whom so much is known."""
        answers = self.judge_members(told, usual).mean(axis=0)
        return np.asarray(answers - answers.mean())

    def encode_members(self, sound: FloatArray) -> FloatArray:
        """What each member makes ``[members, width]`` of a stranger's sound ``[n]``, as from :func:`as_speech`."""
        answers = self.judge_members(describe(self._states, sound), self.stranger())
        return np.asarray(answers - answers.mean(axis=1, keepdims=True))

    @torch.inference_mode()
    def judge_members(self, told: FloatArray, usual: Usual) -> FloatArray:
        """What each member says ``[members, width]``, as logarithms of probabilities."""
        answers: FloatArray = self.network(
            torch.from_numpy(told[None]),
            torch.from_numpy(usual.told[None]),
            torch.from_numpy(usual.moods[:, None]),
            torch.tensor([float(usual.turns)]),
        )[:, 0].numpy()
        return answers

    def remember(self, told: FloatArray, usual: Usual) -> None:
        """Let an utterance count as one more turn of the person; its emotion is judged as that of a stranger."""
        usual.add(told, np.exp(self.judge_members(told, self.stranger())))


def packaged_states() -> WhisperStates:
    """The recogniser's layers, out of the package that carries it.

    Raises:
        WeightsError: the package is missing, or its file is another one.
    """
    return read_states(packaged_whisper() / "model.bin")


@torch.inference_mode()
def describe(network: WhisperStates, speech: FloatArray) -> FloatArray:
    """What the layers tell ``[2304]`` of speech ``[n]`` at 16 kHz with root mean square 1."""
    parts = np.array_split(speech, -(-len(speech) // _LONGEST))
    told: FloatArray = torch.stack([network(torch.from_numpy(part.copy())) for part in parts]).mean(dim=0).numpy()
    return told
