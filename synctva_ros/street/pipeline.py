"""Stages one behind the other, driven by whoever pushes events in: a file, a test, or the thread of a node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from synctva_ros.events import NANOSECONDS, Emotion, Features, Utterance
from synctva_ros.street.inbox import Inbox
from synctva_ros.street.stage import Stage

#: What carries the time since the end of speech along.
TIMED = (Utterance, Features, Emotion)


class Pipeline:
    """Hands each event to every later stage that takes its type, and what that gives to the stages after it.

    Not thread-safe: drive it from one thread.

    Args:
        stages: in the order of the street.
        clock: the time on the clock of the events' stamps [ns], for the durations since the end of speech.
    """

    def __init__(self, stages: Sequence[Stage], clock: Callable[[], int]) -> None:
        self.stages = tuple(stages)
        self._clock = clock

    def push(self, event: Any, *, shed: bool = False) -> Iterator[Any]:
        """Take an event; yield all that leaves any of the stages because of it, in order."""
        yield from self._hand_on(event, 0, shed)

    @property
    def due(self) -> float | None:
        """When :meth:`advance` has something to give although nothing came, on the steady clock [s]; None: never."""
        return min((due for stage in self.stages if (due := stage.due) is not None), default=None)

    def advance(self, now: float = float("inf")) -> Iterator[Any]:
        """Yield what has waited for long enough at ``now`` [s, steady clock]; infinity: nothing more will come."""
        for number, stage in enumerate(self.stages):
            for given in stage.advance(now):
                yield from self._leave(given, number)

    def flush(self) -> Iterator[Any]:
        """Yield what is under way, as far as it got."""
        for number, stage in enumerate(self.stages):
            for given in stage.flush():
                yield from self._leave(given, number)

    def reset(self) -> None:
        """What comes now is of another place and time than what came before."""
        for stage in self.stages:
            stage.reset()

    def warm_up(self) -> None:
        """Let every stage work once."""
        for stage in self.stages:
            stage.warm_up()

    def _hand_on(self, event: Any, first: int, shed: bool = False) -> Iterator[Any]:
        for number, stage in enumerate(self.stages[first:], first):
            if isinstance(event, stage.takes):
                for given in stage.take(event, shed=shed):
                    yield from self._leave(given, number)

    def _leave(self, event: Any, number: int) -> Iterator[Any]:
        if isinstance(event, TIMED):
            event = self._timed(event, self.stages[number].name)
        yield event
        yield from self._hand_on(event, number + 1)

    def _timed(self, event: Any, stage: str) -> Any:
        """Add the stage's share of the time since the end of speech; the last one adds the total, their sum."""
        total = (self._clock() - event.end) / NANOSECONDS
        durations = {name: share for name, share in event.durations.items() if name != "total"}
        durations[stage] = total - sum(durations.values())
        if isinstance(event, Emotion):
            durations["total"] = total
        return replace(event, durations=durations)


class Host:
    """A pipeline on a thread of its own behind an inbox, so that nobody who sends events waits for the work.

    Args:
        name: of the thread.
        pipeline: driven by the thread alone from now on.
        give: called with each event that leaves a stage, on the thread.
        size: utterances that may wait, see :class:`~synctva_ros.street.inbox.Inbox`.
        on_error: called with what ``give`` raised, or a stage although it must not.
        prepare: called once on the thread before the first event (per-thread settings of libraries).
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        give: Callable[[Any], None],
        size: int,
        on_error: Callable[[Exception], None],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.inbox = Inbox(size)
        self._pipeline = pipeline
        self._give = give
        self._on_error = on_error
        self._prepare = prepare
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, event: Any) -> bool:
        """Hand an event over; returns False when it will be answered without work, as too many wait."""
        return self.inbox.put(event)

    def stop(self) -> int:
        """End the thread after the event in work; returns how many final ones were given up."""
        left = self.inbox.close()
        self._thread.join()
        return sum(getattr(waiting.event, "is_final", False) for waiting in left)

    def _run(self) -> None:
        self._prepare()
        while not self.inbox.closed:
            waiting = self.inbox.get(lambda: self._pipeline.due)
            if waiting is not None:
                self._pass_on(self._pipeline.push(waiting.event, shed=waiting.shed))
            elif not self.inbox.closed:
                self._pass_on(self._pipeline.advance(time.monotonic()))

    def _pass_on(self, events: Iterator[Any]) -> None:
        try:
            for event in events:
                try:
                    self._give(event)
                except Exception as error:  # what cannot be given out must not keep back what comes after it
                    self._on_error(error)
        except Exception as error:  # a stage that raises all the same must not end the thread
            self._on_error(error)
