"""What flows along the street: frozen dataclasses, one for each topic, with the same fields as its message.

Times are whole nanoseconds on the source's clock, as in ``builtin_interfaces/Time``; sound is float32 in [-1, 1]. An
event about an utterance carries its ``utterance_id`` and says whether it ``is_final``: of partial ones, which tell what
is known so far, the newest counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ImageArray = NDArray[np.uint8]
NANOSECONDS = 1_000_000_000

#: Everything after the source works at this rate [Hz]: the voice activity detector, Whisper and the voice encoder.
SAMPLE_RATE = 16_000
#: The modalities, in the order of all vectors, bits and shares.
MODALITIES = ("text", "audio", "vision")
#: The classes of the shipped weights, MELD's seven, in the order of the network's outputs.
EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")

#: Mappings from a name to seconds, and the two fields of a message that hold them.
SHARES = {"durations": ("stages", "durations"), "work": ("work", "work_durations")}


class Modality(IntFlag):
    """Bits of ``Emotion.modalities``, in the order of ``MODALITIES``."""

    TEXT = 1
    AUDIO = 2
    VISION = 4


def modalities_of(vectors: Iterable[object | None]) -> Modality:
    """Which of three vectors, in the order of ``MODALITIES``, are there."""
    return Modality(sum(bit for bit, vector in zip(Modality, vectors, strict=True) if vector is not None))


class EndedBy(IntEnum):
    """Why an utterance ended, as in ``Utterance.ended_by``."""

    PAUSE = 0
    SPLIT = 1
    GAP = 2
    GATED = 3
    END_OF_STREAM = 4
    SPEAKING = 5
    SPEAKER = 6


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


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """Samples ``[frames, channels]`` from a source; ``stamp`` is the time of the first one."""

    stream_id: str
    sequence: int
    stamp: int
    sample_rate: int
    samples: FloatArray
    end_of_stream: bool = False
    frame_id: str = ""

    @property
    def channels(self) -> int:
        """Of the samples."""
        return int(self.samples.shape[1])

    @property
    def end(self) -> int:
        """Time just after the last sample [ns]."""
        return self.stamp + round(len(self.samples) * NANOSECONDS / self.sample_rate)


@dataclass(frozen=True)
class RobotSpeaking:
    """Whether the robot itself speaks from now on."""

    speaking: bool


@dataclass(frozen=True)
class EndOfStream:
    """All that was said in a stream has been given out."""

    stream_id: str


@dataclass(frozen=True)
class Reset:
    """The dialogue is over; the next utterance begins a new one."""


@dataclass(frozen=True, eq=False)
class Image:
    """A camera's image, taken at ``stamp``; ``source`` is BGR ``[h, w, 3]``, or gives it when somebody looks."""

    stamp: int
    source: ImageArray | Callable[[], ImageArray]
    frame_id: str = ""

    @cached_property
    def pixels(self) -> ImageArray:
        """BGR ``[h, w, 3]``.

        Raises:
            ValueError: what came cannot be read as an image.
        """
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one image; places and sizes are shares of the image's width and height, (0, 0) the top left corner.

    Attributes:
        face_id: of the track, transient.
        person_id: whose it is; empty when unknown.
        x: left edge of the box.
        y: upper edge of the box.
        width: of the box.
        height: of the box.
        score: the detector's, in [0, 1].
        quality: how well an expression can be read, in [0, 1].
        landmarks: ``[5, 2]``: the eye on the image's left, the other eye, nose, the mouth's corners; None without.
        expression: what the face encoder makes of it ``[d]``; None when it cannot be read.
        mouth_opening: see ``vision.crop.mouth_opening``; NaN when it cannot be told.
    """

    face_id: str
    x: float
    y: float
    width: float
    height: float
    score: float
    quality: float
    landmarks: FloatArray | None = None
    expression: FloatArray | None = None
    mouth_opening: float = math.nan
    person_id: str = ""

    @property
    def area(self) -> float:
        """Share of the image."""
        return self.width * self.height


@dataclass(frozen=True, eq=False)
class Faces:
    """What was found in one image, the largest face first.

    There is one for each image that came, so it also tells how far the images are; ``looked_at`` is False where nobody
    looked: it came too soon after another one, late, or could not be read.
    """

    stamp: int
    looked_at: bool
    faces: tuple[Face, ...] = ()
    height: int = 0
    width: int = 0
    encoder: str = ""
    duration: float = 0.0
    frame_id: str = ""


@dataclass(frozen=True, eq=False)
class Utterance:
    """Mono sound ``[n]`` of one utterance; ``samples[0]`` is at ``samples_start``, speech is ``start`` to ``end``.

    ``overlap`` is the share of it in which somebody else speaks too. A whole file without speech is an utterance
    without sound (n = 0).
    """

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
    person_id: str = ""
    overlap: float = 0.0
    frame_id: str = ""
    is_final: bool = True
    durations: dict[str, float] = field(default_factory=dict)

    def is_same_input(self, other: Utterance) -> bool:
        """Whether both are the same piece of the same stream, for whatever reason they ended."""
        return (self.utterance_id, self.start, self.end) == (other.utterance_id, other.start, other.end)

    def stripped(self) -> Utterance:
        """The utterance without its sound."""
        return replace(self, samples=self.samples[:0].copy())

    @property
    def speech(self) -> FloatArray:
        """The samples between start and end of speech, without pre-roll and tail: ``[n]``."""
        first = round((self.start - self.samples_start) * self.sample_rate / NANOSECONDS)
        last = round((self.end - self.samples_start) * self.sample_rate / NANOSECONDS)
        return self.samples[max(first, 0) : max(last, 0)]

    @property
    def endpoint_duration(self) -> float:
        """From the end of speech until the utterance was given out, hang-over included [s]."""
        return sum(self.durations.values())


@dataclass(frozen=True, eq=False)
class Transcript:
    """The words of what was said until ``end`` in an utterance, or why there are none."""

    utterance_id: str
    end: int
    status: TranscriptStatus
    text: str = ""
    language: str = ""
    language_probability: float = math.nan
    average_logprob: float = math.nan
    no_speech_probability: float = math.nan
    model_id: str = ""
    duration: float = 0.0
    frame_id: str = ""
    is_final: bool = True

    def is_same_input(self, other: Transcript) -> bool:
        """Whether both say the same."""
        return (self.utterance_id, self.text, self.language) == (other.utterance_id, other.text, other.language)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one modality tells of an utterance until ``end``: a vector ``[d]``, or None when there is nothing to go by.

    ``work`` holds what it took [s], by who did it. Words bring their text along.
    """

    utterance_id: str
    end: int
    modality: str
    vector: FloatArray | None
    encoder: str = ""
    text: str = ""
    work: dict[str, float] = field(default_factory=dict)
    is_final: bool = True


@dataclass(frozen=True, eq=False)
class Features:
    """One utterance as vectors ``[d]``; a missing modality is None, never zeros.

    ``durations`` are the parts, one after the other, of the time since the end of speech; ``work`` is what was spent on
    computing by each, side by side and inside the pause [s].
    """

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
    overlap: float = 0.0
    face_id: str = ""
    person_id: str = ""
    text: str = ""
    frames_seen: int = 0
    frames_with_face: int = 0
    ended_by: EndedBy = EndedBy.PAUSE
    frame_id: str = ""
    is_final: bool = True
    durations: dict[str, float] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)

    @property
    def vectors(self) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
        """In the order of ``MODALITIES``."""
        return self.text_vector, self.audio_vector, self.vision_vector

    @property
    def modalities(self) -> Modality:
        """Which vectors are there."""
        return modalities_of(self.vectors)

    def is_same_input(self, other: Features) -> bool:
        """Whether a network would be told the same."""
        names, others = (
            (
                one.utterance_id,
                one.start,
                one.end,
                one.speaker_id,
                one.text_encoder,
                one.audio_encoder,
                one.vision_encoder,
            )
            for one in (self, other)
        )
        return names == others and all(
            a is b if a is None or b is None else np.array_equal(a, b)
            for a, b in zip(self.vectors, other.vectors, strict=True)
        )

    def stripped(self) -> Features:
        """The same without any modality."""
        return replace(self, text_vector=None, audio_vector=None, vision_vector=None)


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the network makes of an utterance in its dialogue.

    ``probabilities`` is ``[classes]`` and sums to 1, ``contributions`` is ``[3]`` (as ``MODALITIES``) and sums to 1,
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


@dataclass(frozen=True, eq=False)
class Emotion:
    """The answer: the fields of ``Emotion.msg``, and of a line of JSON, in their order."""

    end: int
    frame_id: str
    start: int
    utterance_id: str
    dialogue_id: str
    speaker_id: str
    face_id: str
    person_id: str
    turn: int
    stream_id: str
    stream_start: float
    stream_end: float
    overlap: float
    text: str
    label: str
    labels: tuple[str, ...]
    probabilities: FloatArray
    confidence: float
    status: Status
    valence: float
    arousal: float
    modalities: Modality
    contributions: FloatArray
    context_ids: tuple[str, ...]
    context_weights: tuple[float, ...]
    durations: dict[str, float]
    work: dict[str, float]
    model_id: str

    @property
    def is_final(self) -> bool:
        """Whether no other answer to this utterance follows."""
        return self.status != Status.PROVISIONAL

    def as_json(self) -> dict[str, Any]:
        """All fields by the names of the message, as JSON knows them: ``status`` as its name, NaN as None."""
        result: dict[str, Any] = {"header": {"stamp": _time(self.end), "frame_id": self.frame_id}}
        for each in fields(self)[2:]:
            value = getattr(self, each.name)
            if each.name == "start":
                result["start"] = _time(value)
            elif each.name in SHARES:
                names, numbers = SHARES[each.name]
                result[names], result[numbers] = list(value), [_number(np.float32(number)) for number in value.values()]
            elif isinstance(value, Status):
                result[each.name] = value.name
            elif isinstance(value, bool | int | str):
                result[each.name] = int(value) if isinstance(value, int) else value
            elif isinstance(value, float):
                result[each.name] = _number(value)
            else:
                result[each.name] = [item if isinstance(item, str) else _number(item) for item in value]
        return result


def _time(nanoseconds: int) -> dict[str, int]:
    return {"sec": nanoseconds // NANOSECONDS, "nanosec": nanoseconds % NANOSECONDS}


def _number(value: float | np.floating[Any]) -> float | None:
    """Seven digits, which is what a float32 holds; None when it is not finite."""
    number = float(value)
    return float(f"{number:.7g}") if math.isfinite(number) else None
