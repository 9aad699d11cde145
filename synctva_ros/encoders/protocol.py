"""What an encoder is: everything that the street and the trainings ask of one. Ours are only the first of each kind.

An encoder's class says with an attribute ``modality`` what it encodes, and is called with one text, its weights; empty
means its own. See ``docs/encoders.md`` for how to write one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from synctva_ros.events import FloatArray, ImageArray


class Encoder(Protocol):
    """What all encoders say of themselves."""

    @property
    def name(self) -> str:
        """Name and version; an emotion network that was trained with one encoder refuses another."""

    @property
    def width(self) -> int:
        """Of the vectors."""


class TextEncoder(Encoder, Protocol):
    """Encodes the words of an utterance."""

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes of those that it understands; empty for any."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors ``[n, width]``."""


class AudioEncoder(Encoder, Protocol):
    """Encodes the sound of an utterance."""

    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        """Vector ``[width]`` of mono sound ``[n]``; None when there is nothing to hear."""


@runtime_checkable
class PersonalAudioEncoder(AudioEncoder, Protocol):
    """An encoder of voices that makes more of an utterance when it knows how the person usually speaks.

    Its ``encode`` is that of a stranger.
    """

    def describe(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        """The slow part ``[m]``, whoever speaks; None when there is nothing to hear."""

    def stranger(self) -> Any:
        """What is known of somebody who has not been heard before: little, and no more with the years."""

    def judge(self, told: FloatArray, usual: Any) -> FloatArray:
        """Vector ``[width]`` of what :meth:`describe` gave, of somebody of whom so much is known."""

    def remember(self, told: FloatArray, usual: Any) -> None:
        """Let it count for what is known of the person."""


class SpeakerEncoder(AudioEncoder, Protocol):
    """Encodes whose voice it is: vectors of length 1, which are alike where the person is the same."""

    @property
    def same(self) -> float:
        """Cosine from which two utterances of some seconds are rather of one person than of two."""


class FaceEncoder(Encoder, Protocol):
    """Encodes images of faces."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the elements of a vector stand for; empty when they stand for nothing in particular."""

    @property
    def side(self) -> int:
        """Of the square, grey, aligned crops that it wants [pixels]."""

    def encode(self, crops: Sequence[ImageArray]) -> FloatArray:
        """Vectors ``[n, width]``, one for each crop ``[side, side]``."""
