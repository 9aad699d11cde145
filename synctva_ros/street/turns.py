"""Sound → utterances: who starts and stops speaking when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar

from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.segmentation import CausalSegmenter
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, AudioChunk, EndOfStream, RobotSpeaking, Utterance
from synctva_ros.street.stage import Log, Stage, State

#: A stream that gives nothing for longer does not tell the time any more [s].
STANDS_STILL = 0.5


#: Without sound for so long, a source has stopped [s].
NO_SOUND = 5.0
#: Without speech for so long it is worth a line [s].
NO_SPEECH = 300.0
#: Speech with a smaller root mean square (full scale 1) is hard to understand: -50 dB.
QUIET = 0.003


class TurnsStage(Stage):
    """The end-pointer; ``RobotSpeaking`` makes it deaf from the sample on that is being recorded when it comes."""

    name: ClassVar[str] = "turns"
    takes: ClassVar[tuple[type, ...]] = (AudioChunk, RobotSpeaking)

    def __init__(self, config: Turns, log: Log) -> None:
        super().__init__(log)
        weights = config.segmentation_weights
        self._endpointer = Endpointer(config, log.warning, CausalSegmenter(weights) if weights else None)
        self._heard = (0, 0.0)  # time at the source just after the newest sample [ns], and when it came [s]
        self._has_ended = True
        self._spoken = 0.0  # when the last utterance began to be given out, or the stream began [s]
        self._last: Utterance | None = None

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
        for utterance in self._endpointer.push(event):
            self._spoken = time.monotonic()
            self._last = utterance if utterance.is_final else self._last
            yield utterance
        if event.end_of_stream:
            yield EndOfStream(event.stream_id)
        self.succeeded()

    def is_over(self, event: Any) -> bool:
        """Chunks belong to no utterance."""
        return False

    def flush(self) -> Iterator[Utterance]:
        """What is being said, as far as it was heard."""
        yield from self._endpointer.flush()

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
        return super().details() | vars(self._endpointer.stream_counters) | vars(self._endpointer.counters)

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
