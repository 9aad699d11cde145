"""Who speaks: voices as they come, told apart, known again, named and forgotten."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from synctva_ros.events import FloatArray

#: Shorter speech than a second says less: so much less alike it may be.
SHORT = 0.1
#: So much less alike than the halves of an utterance are may be two utterances of a person. Lively and noisy speech is
#: not even like itself; what is calm and clear, or comes over a telephone, is like everybody's a little.
UNSTEADY = 0.15
#: People take turns: so much less alike is the voice of the utterance before, and so much where it was heard that
#: somebody else began.
TURN, CHANGED = 0.05, 0.1
#: Probability of a change, as the segmenter hears it, at which the voices alone decide; what each unit of log odds
#: above it is worth in cosine.
CHANGE, WORTH = 0.3, 0.1
#: Who has spoken in one of so many last utterances is there.
PRESENT = 16
#: Speech that is shorter does not make a new voice, and does not change a known one [s].
NEW = 0.6
#: More speech than this makes a vector no better [s].
ENOUGH = 3.0
#: So much more alike than one utterance must be what two voices consist of, for them to be one.
JOINED = 0.3
#: Of how much speech each voice must consist before it is compared with others [s].
SETTLED = 4.0
#: How many voices are kept; of those without a name the one that was heard longest ago makes room.
MOST = 64


@dataclass(eq=False)
class Voice:
    """A voice.

    Attributes:
        speaker_id: transient: ``v1``, ``v2``, …
        vector: sum of its vectors, weighted by their seconds ``[width]``.
        seconds: of speech that it consists of.
        name: of the person; empty when nobody gave one.
        heard: number of the utterance in which it was heard last.
    """

    speaker_id: str
    vector: FloatArray
    seconds: float
    name: str = ""
    heard: int = -1


@dataclass(frozen=True, eq=False)
class Spoken:
    """What is known of the voice of an utterance.

    Attributes:
        vector: of length 1 ``[width]``.
        seconds: of speech in it.
        steady: cosine of the vectors of its halves.
        changed: it was heard that somebody else began than who spoke the utterance before.
    """

    vector: FloatArray
    seconds: float
    steady: float = 0.0
    changed: bool = False


@dataclass(frozen=True)
class Heard:
    """Whose voice an utterance is.

    Attributes:
        speaker_id: empty: it was too short, or too unlike all others and too short to be somebody new.
        person_id: name of the person; empty when nobody gave one.
        joined: voices of before that turned out to be this one.
    """

    speaker_id: str = ""
    person_id: str = ""
    joined: tuple[str, ...] = ()


NOBODY = Heard()


@dataclass
class Speakers:
    """The voices that were heard so far. Nothing is written anywhere unless :meth:`write` is called.

    Attributes:
        same: cosine from which a vector is of a voice that is known (:class:`.protocol.SpeakerEncoder`).
        voices: in the order in which they were first heard.
    """

    same: float
    voices: list[Voice] = field(default_factory=list)
    _made: int = 0
    _heard: int = 0

    def look(self, spoken: Spoken | None) -> Heard:
        """What :meth:`hear` would say but for joined voices, without taking note."""
        if spoken is None:
            return NOBODY
        voice = self._known(spoken)
        if voice is not None:
            return Heard(voice.speaker_id, voice.name)
        return Heard(f"v{self._made + 1}") if spoken.seconds >= NEW else NOBODY

    def hear(self, spoken: Spoken | None) -> Heard:
        """Whose voice this is; it is taken note of. None: an utterance whose voice says nothing."""
        voice = None if spoken is None else self._known(spoken)
        self._heard += 1
        if spoken is None or (voice is None and spoken.seconds < NEW):
            return NOBODY
        voice = voice or self._new(np.zeros_like(spoken.vector))
        voice.heard = self._heard
        if spoken.seconds < NEW:
            return Heard(voice.speaker_id, voice.name)
        voice.vector = voice.vector + spoken.vector * min(spoken.seconds, ENOUGH)
        voice.seconds += spoken.seconds
        return self._join(voice)

    def is_another(self, before: FloatArray, after: FloatArray, probability: float) -> bool:
        """Whether of two pieces of sound, one after the other, the second is another person's.

        It is if its voice is less like the first than ``same``, or than like somebody else's who is there; the surer it
        is without the voices, the more alike they may be.

        Args:
            before: vector of the first piece ``[width]``.
            after: vector of the second, of at least half a second.
            probability: that somebody else begins, by what else is known.
        """
        there = [voice.vector for voice in self.voices if 0 <= self._heard - voice.heard < PRESENT]
        spoke = int(np.argmax([_cosine(vector, before) for vector in there])) if there else -1
        others = [_cosine(vector, after) for n, vector in enumerate(there) if n != spoke]
        surer = _log_odds(probability) - _log_odds(CHANGE)
        return _cosine(before, after) < max([self.same, *others]) + WORTH * surer

    def enroll(self, speaker_id: str, name: str) -> Voice:
        """Give the person with this voice a name.

        Raises:
            ValueError: there is no such voice, or somebody else has the name.
        """
        if not name:
            raise ValueError("the name is empty: give the person one, or forget the voice")
        voice = self._find(speaker_id)
        if any(other.name == name for other in self.voices if other is not voice):
            raise ValueError(f"another voice has the name {name!r}: forget it first, or give another name")
        voice.name = name
        return voice

    def forget(self, who: str) -> None:
        """Forget a voice, by its id or its name, or all of them ("").

        Raises:
            ValueError: there is no such voice.
        """
        if not who:
            self.voices.clear()
        else:
            self.voices.remove(self._find(who))

    def write(self, path: Path, encoder: str) -> None:
        """Keep the voices that have a name; the file is whole or what it was before.

        Args:
            path: of the file.
            encoder: name of the encoder that the vectors are of.

        Raises:
            OSError: it cannot be written.
        """
        named = [voice for voice in self.voices if voice.name]
        tensors = {f"{n}": voice.vector for n, voice in enumerate(named)}
        people = [{"name": voice.name, "seconds": voice.seconds} for voice in named]
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.touch(mode=0o600)  # whose voices these are is nobody else's business
        beside.write_bytes(save(tensors, {"encoder": encoder, "people": json.dumps(people)}))
        os.replace(beside, path)

    def read(self, path: Path, encoder: str) -> None:
        """Know the people of a file that :meth:`write` wrote; none when there is no file yet.

        Raises:
            ValueError: it is no such file, or its vectors are of another encoder.
        """
        if not path.exists():
            return
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                vectors = [file.get_tensor(f"{n}") for n in range(len(file.keys()))]
            people = json.loads(about["people"])
            if about["encoder"] != encoder:
                raise ValueError(
                    f"{path} has voices of the encoder {about['encoder']!r}, not of {encoder!r}: take the former, or "
                    "another file, and enroll the people again"
                )
            for person, vector in zip(people, vectors, strict=True):
                voice = self._new(vector)
                voice.name, voice.seconds = str(person["name"]), float(person["seconds"])
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no file of people ({error}): give another, or delete it") from error

    def _find(self, who: str) -> Voice:
        for voice in self.voices:
            if who in (voice.speaker_id, voice.name):
                return voice
        known = ", ".join(f"{each.speaker_id} {each.name}".strip() for each in self.voices) or "none yet"
        raise ValueError(f"there is no voice {who!r}; those that are known: {known}")

    def _known(self, spoken: Spoken) -> Voice | None:
        less = CHANGED if spoken.changed else TURN
        alike = [_cosine(each.vector, spoken.vector) - less * (each.heard == self._heard) for each in self.voices]
        needed = max(self.same, spoken.steady - UNSTEADY) if spoken.seconds >= 1.0 else self.same - SHORT
        return self.voices[int(np.argmax(alike))] if alike and max(alike) >= needed else None

    def _new(self, vector: FloatArray) -> Voice:
        if len(self.voices) >= MOST:
            unnamed = [voice for voice in self.voices if not voice.name]
            self.voices.remove(min(unnamed or self.voices, key=lambda voice: voice.heard))
        self._made += 1
        voice = Voice(f"v{self._made}", vector, 0.0)
        self.voices.append(voice)
        return voice

    def _join(self, voice: Voice) -> Heard:
        """Two voices that turn out to be one become the older of them; of two with names none does."""
        joined: list[str] = []
        while (other := self._one_with(voice)) is not None:
            kept, gone = sorted((voice, other), key=self.voices.index)
            kept.vector, kept.seconds = kept.vector + gone.vector, kept.seconds + gone.seconds
            kept.name, kept.heard = kept.name or gone.name, max(kept.heard, gone.heard)
            self.voices.remove(gone)
            joined.append(gone.speaker_id)
            voice = kept
        return Heard(voice.speaker_id, voice.name, tuple(joined))

    def _one_with(self, voice: Voice) -> Voice | None:
        """A voice that turns out to be the same person's."""
        for other in self.voices:
            if other is voice or min(other.seconds, voice.seconds) < SETTLED or (voice.name and other.name):
                continue
            if _cosine(voice.vector, other.vector) >= self.same + JOINED:
                return other
        return None


def _cosine(one: FloatArray, other: FloatArray) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def _log_odds(probability: float) -> float:
    return math.log(max(probability, 1e-6) / max(1.0 - probability, 1e-6))
