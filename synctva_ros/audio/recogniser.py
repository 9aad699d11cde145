"""What the transcriber asks of a speech recogniser, and what it gets."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

from synctva_ros.events import FloatArray

#: Text that shrinks by more than this when compressed repeats itself (OpenAI's default for Whisper).
MAX_COMPRESSION_RATIO = 2.4
#: Words in a group, and how often in a row it is a loop: people do say "no, no, no".
_LOOPS = ((1, 5), *((size, 3) for size in range(2, 7)))


@dataclass(frozen=True)
class Heard:
    """What a recogniser makes of an utterance.

    Attributes:
        text: the words; empty where it hears none.
        average_logprob: mean over the tokens of the logarithm of their probability; NaN without any.
        repeats: whether it was caught in a loop.
        no_speech_probability: that nobody speaks; NaN if it does not say.
        language: ISO 639-1 code.
        language_probability: how sure it is of that.
    """

    text: str
    average_logprob: float
    repeats: bool
    no_speech_probability: float
    language: str
    language_probability: float


class Recogniser(Protocol):
    """A loaded model."""

    @property
    def model_id(self) -> str:
        """Its name."""

    @property
    def device(self) -> str:
        """Where it runs, and in which arithmetic."""

    @property
    def doubtful(self) -> float:
        """Mean log-probability below which its words are more often wrong than right."""

    def hear(self, samples: FloatArray, language: str, beam_size: int) -> Heard:
        """Recognise mono sound ``[n]`` at 16 kHz.

        Args:
            samples: the sound.
            language: ISO 639-1 code; empty: to be found.
            beam_size: hypotheses that are kept.
        """


def is_loop(text: str) -> bool:
    """Whether a text says the same again and again, as recognisers do on what is no speech."""
    words = text.lower().split()
    for size, times in _LOOPS:
        length = size * times
        if any(words[at : at + length] == words[at : at + size] * times for at in range(len(words) - length + 1)):
            return True
    written = text.encode()
    return bool(written) and len(written) / len(zlib.compress(written)) > MAX_COMPRESSION_RATIO
