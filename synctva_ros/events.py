"""What flows between the rooms: small frozen dataclasses. ``ros/convert.py`` turns them into ROS messages.

Times are integer nanoseconds on the source's clock, as in ``builtin_interfaces/Time``; sound is float32 in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
NANOSECONDS = 1_000_000_000

#: The classes of the shipped weights, MELD's seven, in the order of the network's outputs.
EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")


class Modality(IntFlag):
    """Bits of ``Emotion.modalities``; the order is that of ``Emotion.contributions``."""

    TEXT = 1
    AUDIO = 2
    VISION = 4


class EndedBy(IntEnum):
    """Why an utterance ended, as in ``Utterance.ended_by``."""

    PAUSE = 0
    SPLIT = 1
    GAP = 2
    GATED = 3
    END_OF_STREAM = 4
    SPEAKING = 5


class TranscriptStatus(IntEnum):
    """Whether there are words, as in ``Transcript.status``."""

    OK = 0
    NO_MODEL = 1
    SILENCE = 2
    UNRELIABLE = 3
    FAILED = 4


class Status(IntEnum):
    """How far to trust an estimate, as in ``Emotion.status``."""

    PROVISIONAL = 0
    FINAL = 1
    UNCERTAIN = 2


@dataclass(frozen=True)
class AudioChunk:
    """Samples ``[frames, channels]`` from a source; ``stamp`` is the time of the first one."""

    stream_id: str
    sequence: int
    stamp: int
    sample_rate: int
    samples: FloatArray
    end_of_stream: bool = False


@dataclass(frozen=True)
class Utterance:
    """Mono sound ``[n]`` of one utterance; ``samples[0]`` is at ``samples_start``, speech is ``start`` to ``end``."""

    utterance_id: str
    stream_id: str
    first_sequence: int
    last_sequence: int
    start: int
    end: int
    stream_start: float
    stream_end: float
    ended_by: EndedBy
    samples_start: int
    sample_rate: int
    samples: FloatArray
    rms: float
    clipped: bool
    speaker_id: str = ""

    def is_same_sound(self, other: Utterance) -> bool:
        """Whether both are the same piece of the same stream, for whatever reason they ended."""
        return (self.utterance_id, self.start, self.end) == (other.utterance_id, other.start, other.end)

    @property
    def speech(self) -> FloatArray:
        """The samples between start and end of speech, without pre-roll and tail: ``[n]``."""
        first = round((self.start - self.samples_start) * self.sample_rate / NANOSECONDS)
        last = round((self.end - self.samples_start) * self.sample_rate / NANOSECONDS)
        return self.samples[max(first, 0) : max(last, 0)]


@dataclass(frozen=True)
class Transcript:
    """The words of an utterance, or why there are none."""

    utterance_id: str
    status: TranscriptStatus
    text: str = ""
    language: str = ""
    language_probability: float = float("nan")
    average_logprob: float = float("nan")
    no_speech_probability: float = float("nan")
    model_id: str = ""
    duration: float = 0.0


@dataclass(frozen=True)
class Features:
    """One utterance as vectors ``[d]``; a missing modality is None, never zeros."""

    utterance_id: str
    start: int
    end: int
    text_vector: FloatArray | None = None
    audio_vector: FloatArray | None = None
    vision_vector: FloatArray | None = None
    text_encoder: str = ""
    audio_encoder: str = ""
    vision_encoder: str = ""
    stream_id: str = ""
    stream_start: float = 0.0
    stream_end: float = 0.0
    speaker_id: str = ""
    face_id: str = ""
    person_id: str = ""
    text: str = ""
    frames_seen: int = 0
    frames_with_face: int = 0
    ended_by: EndedBy = EndedBy.PAUSE
    durations: dict[str, float] = field(default_factory=dict)

    @property
    def modalities(self) -> Modality:
        """Which vectors are there."""
        present = Modality(0)
        if self.text_vector is not None:
            present |= Modality.TEXT
        if self.audio_vector is not None:
            present |= Modality.AUDIO
        if self.vision_vector is not None:
            present |= Modality.VISION
        return present


@dataclass(frozen=True)
class Estimate:
    """What the network makes of an utterance in its dialogue.

    ``probabilities`` is ``[classes]`` and sums to 1, ``contributions`` is ``[3]`` (text, audio, vision) and sums to 1,
    ``context`` names the earlier utterances that mattered, most important first, with their share.
    """

    utterance_id: str
    dialogue_id: str
    turn: int
    labels: tuple[str, ...]
    probabilities: FloatArray
    contributions: FloatArray
    modalities: Modality
    context: tuple[tuple[str, float], ...]
    model_id: str
    duration: float

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[int(np.argmax(self.probabilities))]

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return float(np.max(self.probabilities))
