"""Sound → utterances: who starts and stops speaking when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar

from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, AudioChunk, EndOfStream, RobotSpeaking, Utterance
from synctva_ros.street.stage import Log, Stage, State

#: A stream that gives nothing for longer does not tell the time any more [s].
STANDS_STILL = 0.5


class TurnsStage(Stage):
    """The end-pointer; ``RobotSpeaking`` makes it deaf from the sample on that is being recorded when it comes."""

    name: ClassVar[str] = "turns"
    takes: ClassVar[tuple[type, ...]] = (AudioChunk, RobotSpeaking)

    def __init__(self, config: Turns, log: Log) -> None:
        super().__init__(log)
        self._endpointer = Endpointer(config, log.warning)
        self._heard = (0, 0.0)  # time at the source just after the newest sample [ns], and when it came [s]

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
        yield from self._endpointer.push(event)
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
