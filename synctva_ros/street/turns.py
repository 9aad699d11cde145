"""Sound → utterances: who starts and stops speaking when, and whose voice it is."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.segmentation import create_segmenter
from synctva_ros.audio.speakers import Speakers, Spoken, Voice
from synctva_ros.config import Turns
from synctva_ros.encoders.protocol import SpeakerEncoder
from synctva_ros.events import (
    NANOSECONDS,
    SAMPLE_RATE,
    AudioChunk,
    EndedBy,
    EndOfStream,
    FloatArray,
    RobotSpeaking,
    Utterance,
)
from synctva_ros.street.stage import REMEMBERED, Log, Stage, State

#: A stream that gives nothing for longer does not tell the time any more [s].
STANDS_STILL = 0.5


#: Without sound for so long, a source has stopped [s].
NO_SOUND = 5.0
#: Without speech for so long it is worth a line [s].
NO_SPEECH = 300.0
#: Speech with a smaller root mean square (full scale 1) is hard to understand: -50 dB.
QUIET = 0.003


class TurnsStage(Stage):
    """The end-pointer; ``RobotSpeaking`` makes it deaf from the sample on that is being recorded when it comes.

    Args:
        config: of the node.
        log: takes sentences.
        encoder: of voices, to tell them apart; None: they are not.
    """

    name: ClassVar[str] = "turns"
    takes: ClassVar[tuple[type, ...]] = (AudioChunk, RobotSpeaking)

    def __init__(self, config: Turns, log: Log, encoder: SpeakerEncoder | None = None) -> None:
        super().__init__(log)
        self._config, self._encoder = config, encoder
        #: The voices that were heard so far.
        self.speakers = Speakers(encoder.same if encoder else 0.0)
        self._people = Path(config.people_file).expanduser() if config.people_file else None
        if self._people is not None and encoder is not None:
            self.speakers.read(self._people, encoder.name)
        self._voices: OrderedDict[str, str] = OrderedDict()  # of the newest utterances
        self._to_name = ""  # the person who is speaking
        self._ahead: tuple[Utterance, Spoken | None] | None = None  # what was encoded in the pause
        self._endpointer = Endpointer(
            config, log.warning, create_segmenter(config), self._is_another if encoder else None
        )
        self._heard = (0, 0.0)  # time at the source just after the newest sample [ns], and when it came [s]
        self._has_ended = True
        self._spoken = 0.0  # when the last utterance began to be given out, or the stream began [s]
        self._last: Utterance | None = None
        #: Name of the only person who speaks, where somebody says so of a recording; empty: it is listened to.
        self.person = ""

    def process(self, event: AudioChunk | RobotSpeaking) -> Iterator[Utterance | EndOfStream]:
        """The utterances that a chunk begins, ends or tells more of."""
        if isinstance(event, RobotSpeaking):
            # The message has no stamp of its own, and the wall clock is not that of a recording.
            stamp, came = self._heard
            since = min(time.monotonic() - came, STANDS_STILL)
            self._endpointer.set_gate(event.speaking, stamp + round(since * NANOSECONDS) if came else 0)
            return
        if len(event.samples):
            self._heard = event.end, time.monotonic()
            self._spoken = self._heard[1] if self._has_ended else self._spoken
        self._has_ended = event.end_of_stream
        for utterance in map(self._spoken_by, self._endpointer.push(event)):
            self._spoken = time.monotonic()
            self._last = utterance if utterance.is_final else self._last
            yield utterance
        if self._to_name and not self._endpointer.speaking:  # what was said is no utterance: the next one is not meant
            self.log.warning(f"{self._to_name} is not enrolled: what was being said was no utterance")
            self._to_name = ""
        if event.end_of_stream:
            yield EndOfStream(event.stream_id)
        self.succeeded()

    def is_over(self, event: Any) -> bool:
        """Chunks belong to no utterance."""
        return False

    def flush(self) -> Iterator[Utterance]:
        """What is being said, as far as it was heard."""
        yield from map(self._spoken_by, self._endpointer.flush())

    def _is_another(self, before: FloatArray, after: FloatArray, probability: float) -> bool:
        """Whether of two pieces of sound the second is another person's; not if the encoder cannot tell."""
        assert self._encoder is not None
        one, other = (self._encoder.encode(sound, SAMPLE_RATE) for sound in (before, after))
        return one is not None and other is not None and self.speakers.is_another(one, other, probability)

    def enroll(self, name: str, speaker_id: str = "", utterance_id: str = "") -> Voice | None:
        """Name the person with a voice, or who spoke an utterance; neither: who speaks now, or else spoke last.

        Returns:
            The voice; None when it is that of the utterance under way, which gets the name when it is over.

        Raises:
            ValueError: voices are not told apart, there is no such voice or utterance, its voice was not known, or the
                name is empty or taken.
            OSError: the file of people cannot be written.
        """
        self._check_encoder()
        if not name:
            raise ValueError("the name is empty: give the person one, or forget the voice")
        if not speaker_id and not utterance_id and self._endpointer.speaking:
            self._to_name = name
            return None
        if not speaker_id:
            utterance_id = utterance_id or next(reversed(self._voices), "")
            if utterance_id not in self._voices:
                raise ValueError(f"there is no utterance {utterance_id!r} among the newest: give one, or a speaker_id")
            speaker_id = self._voices[utterance_id]
            if not speaker_id:
                raise ValueError(f"whose voice {utterance_id} is was not known: let the person say a longer sentence")
        voice = self.speakers.enroll(speaker_id, name)
        self._keep()
        return voice

    def forget(self, who: str = "") -> None:
        """Forget a voice, by its id or its name, or all of them.

        Raises:
            ValueError: voices are not told apart, or there is no such voice.
            OSError: the file of people cannot be written.
        """
        self._check_encoder()
        self.speakers.forget(who)
        self._keep()

    def _check_encoder(self) -> None:
        if self._encoder is None or self._config.speaker_id:
            raise ValueError("voices are not told apart: set speaker_encoder, and leave speaker_id empty")

    def _keep(self) -> None:
        if self._people is not None and self._encoder is not None:
            self.speakers.write(self._people, self._encoder.name)

    def _spoken_by(self, utterance: Utterance) -> Utterance:
        """The utterance with whose voice it is, if that is asked for and it is not only what was said so far."""
        if self.person:
            return replace(utterance, person_id=self.person)
        if self._encoder is None or self._config.speaker_id or utterance.ended_by == EndedBy.SPEAKING:
            return utterance
        if self._ahead is not None and self._ahead[0].is_same_input(utterance):
            spoken = self._ahead[1]
        else:
            spoken = self._listen_to(utterance)
        if not utterance.is_final:
            self._ahead = utterance, spoken
            heard = self.speakers.look(spoken)
        else:
            self._ahead = None
            heard = self.speakers.hear(spoken)
            for gone in heard.joined:
                self.log.info(f"voice {gone} is voice {heard.speaker_id}: one person was taken for two")
                self._voices = OrderedDict(
                    (key, heard.speaker_id if voice == gone else voice) for key, voice in self._voices.items()
                )
            self._voices[utterance.utterance_id] = heard.speaker_id
            while len(self._voices) > REMEMBERED:
                self._voices.popitem(last=False)
            name, self._to_name = self._to_name, ""
            if name:
                try:
                    self.enroll(name, utterance_id=utterance.utterance_id)
                    heard = replace(heard, person_id=name)
                except (ValueError, OSError) as error:
                    self.log.warning(f"{name} is not enrolled: {error}")
        return replace(utterance, speaker_id=heard.speaker_id, person_id=heard.person_id)

    def _listen_to(self, utterance: Utterance) -> Spoken | None:
        """What the encoder makes of an utterance, and of its halves."""
        assert self._encoder is not None
        sound, rate = utterance.speech, utterance.sample_rate
        vector = self._encoder.encode(sound, rate)
        if vector is None:
            return None
        one, other = (self._encoder.encode(half, rate) for half in np.array_split(sound, 2))
        steady = 0.0 if one is None or other is None else float(one @ other)
        changed = self._last is not None and self._last.ended_by == EndedBy.SPEAKER
        return Spoken(vector, utterance.stream_end - utterance.stream_start, steady, changed)

    def state(self) -> State:
        """Whether someone speaks, or the sound is damaged."""
        stream = self._endpointer.stream_counters
        if self._failure:
            return super().state()
        if stream.lost or stream.not_finite or self.counts["malformed"]:
            return State(1, "the sound is damaged")
        return State(0, "speech" if self._endpointer.speaking else "silence")

    def details(self) -> dict[str, Any]:
        """What was heard and what was lost."""
        whose = {"voices": len(self.speakers.voices), "encoder": self._encoder.name} if self._encoder else {}
        return super().details() | vars(self._endpointer.stream_counters) | vars(self._endpointer.counters) | whose

    def lacks(self, now: float) -> dict[str, State]:
        """Sound that has stopped, is muted, clipped or too quiet; and speech, for long."""
        found: dict[str, State] = {}
        if not self._has_ended and now - self._heard[1] > NO_SOUND:
            found["sound"] = State(
                1, f"no sound has come for {NO_SOUND:g} s: is the microphone still there and its node active?"
            )
        elif self._endpointer.is_muted:
            found["sound"] = State(
                1, "every sample is 0: is the microphone muted, or the wrong device or channel chosen?"
            )
        elif not self._has_ended and now - self._spoken > NO_SPEECH:
            found["speech"] = State(0, f"nobody has spoken for {NO_SPEECH:g} s")
        if self._last is not None and self._last.clipped:
            found["level"] = State(1, "the last utterance was clipped: turn the microphone's gain down")
        elif self._last is not None and self._last.rms < QUIET:
            found["level"] = State(
                1, "the last utterance was very quiet: turn the microphone's gain up, or come closer"
            )
        return found
