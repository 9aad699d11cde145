"""What all stages of the street have in common: errors, partial and final events, work done ahead, waiting, order.

A stage is an object that takes events and gives events and knows nothing of ROS, threads or topics. Its rules:

- An event of an utterance is partial or final. What is partial of an utterance that is over is left out.
- What was computed for a partial event is kept, and taken when the final one brings the same input.
- A stage whose work raises gives its answer without it, says so in the log and in its state, and goes on healthy.
- What needs several events waits for them, for a bounded time; answers leave in the order of the final events.

That of partial events only the newest counts, and that no final one is dropped, is the rule of the queue before a
stage: ``street/inbox.py``.
"""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeGuard, TypeVar

#: So many utterances are remembered as over, or as worked on ahead: topics may overtake each other.
REMEMBERED = 64
#: The same failure is logged again after this time [s].
REPEAT_AFTER = 10.0

E = TypeVar("E", bound="UtteranceEvent")
R = TypeVar("R")


class Log(Protocol):
    """Takes one sentence at a time; a logger of Python's or of rclpy's."""

    def info(self, message: str, /) -> Any:
        """What runs where."""

    def warning(self, message: str, /) -> Any:
        """What a person should know."""

    def error(self, message: str, /) -> Any:
        """What was lost."""


class UtteranceEvent(Protocol):
    """An event about an utterance."""

    @property
    def utterance_id(self) -> str:
        """Which one."""

    @property
    def end(self) -> int:
        """Until when it tells of it [ns]."""

    @property
    def is_final(self) -> bool:
        """Whether no other event of its type follows for this utterance."""

    def is_same_input(self, other: Any, /) -> bool:
        """Whether working on either gives the same."""


@dataclass
class State:
    """How a stage is doing: a level of ``DiagnosticStatus`` (0 OK, 1 WARN, 2 ERROR) and a sentence."""

    level: int
    sentence: str


class Stage(ABC):
    """One box of the street.

    Attributes:
        name: of the stage, and of its share of the time since the end of speech.
        takes: the types of events that it takes.
        counts: what happened so far, for diagnostics.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[type, ...]]

    def __init__(self, log: Log) -> None:
        self.log = log
        self.counts: Counter[str] = Counter(errors=0)
        self._over: deque[str] = deque(maxlen=REMEMBERED)
        self._failure = ""
        self._reported: dict[str, float] = {}  # when a kind of failure was logged last [s]

    # --- for who drives it

    def take(self, event: Any, *, shed: bool = False) -> Iterator[Any]:
        """Take an event; give the answers that follow from it. Nothing that an event brings makes it raise.

        Args:
            event: of one of the types in ``takes``.
            shed: the machine is too slow; give the answer without working on it.
        """
        identity = getattr(event, "utterance_id", None)
        if identity is not None and self.is_over(event):
            return
        try:
            answers = list(self.without(event) if shed else self.process(event))
        except Exception as error:  # whatever it is, the next event has a right to be worked on
            self.report(error, "" if identity is None else f" on utterance {identity}")
            answers = list(self.without(event))
        yield from answers

    @property
    def due(self) -> float | None:
        """When :meth:`advance` has something to give although nothing came, on the steady clock [s]; None: never."""
        return None

    def advance(self, now: float) -> Iterator[Any]:
        """Give what has waited for long enough at ``now`` [s, steady clock]; infinity: nothing more will come."""
        yield from ()

    def flush(self) -> Iterator[Any]:
        """Give what is under way, as far as it got: the source has gone, or the node falls silent."""
        yield from ()

    def reset(self) -> None:
        """What comes now is of another place and time than what came before."""
        self._over.clear()

    def warm_up(self) -> None:  # noqa: B027 (most stages have nothing to warm up)
        """Work once on nothing, so that the first event is not a slow one."""

    def state(self) -> State:
        """How it is doing."""
        return State(1, self._failure) if self._failure else State(0, self.name)

    def details(self) -> dict[str, Any]:
        """More of it, for diagnostics."""
        return dict(self.counts)

    def lacks(self, now: float) -> dict[str, State]:
        """What is missing at ``now`` [s, steady clock] in what comes in, each under a name, and what to do about it."""
        return {}

    # --- for stages

    @abstractmethod
    def process(self, event: Any) -> Iterable[Any]:
        """The answers to an event; whatever it raises is reported."""

    def without(self, event: Any) -> Iterable[Any]:
        """The answers to an event that could not be worked on."""
        return ()

    def is_over(self, event: Any) -> bool:
        """Whether an event is of an utterance whose final event has been taken; takes note of a final one."""
        if event.is_final:
            self._over.append(event.utterance_id)
            return False
        return event.utterance_id in self._over

    def succeeded(self) -> None:
        """What can fail did not; nothing stands in the way any more."""
        self._failure = ""

    def report(self, error: Exception, what: str = "") -> None:
        """Say that something failed, with where; it stands in the state until something succeeds.

        The same failure again and again, of each image perhaps, is logged once in a while and counted.
        """
        self.counts["errors"] += 1
        self._failure = f"{self.name} failed{what}: {type(error).__name__}: {error}"
        kind, now = f"{type(error).__name__}: {error}", time.monotonic()
        if now - self._reported.get(kind, float("-inf")) < REPEAT_AFTER:
            return
        self._reported = {old: when for old, when in self._reported.items() if now - when < REPEAT_AFTER} | {kind: now}
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.log.error(f"{self._failure} ({where.name}, line {where.lineno})")


class Transform(Stage, Generic[E, R]):
    """A stage that answers each event of an utterance, whatever else there is.

    ``work`` is slow and depends on the event alone (not on whether it is final); ``answer`` is quick.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._ahead: OrderedDict[str, tuple[E, R]] = OrderedDict()

    def reset(self) -> None:
        """Forget what was computed ahead."""
        super().reset()
        self._ahead.clear()

    def process(self, event: E) -> Iterable[Any]:
        """Work, unless that has been done ahead, and answer."""
        done = self._ahead.pop(event.utterance_id, None)
        if done is not None and done[0].is_same_input(event):
            result = done[1]
        elif self.is_wanted(event):
            result = self.work(event)
            self.succeeded()
        else:
            return ()
        if not event.is_final:
            self._ahead[event.utterance_id] = event, result
            while len(self._ahead) > REMEMBERED:
                self._ahead.popitem(last=False)
        return self.answer(event, result)

    def without(self, event: E) -> Iterable[Any]:
        """Answer as if there was nothing to go by."""
        return self.answer(event, self.nothing(event)) if event.is_final or self.is_wanted(event) else ()

    def is_wanted(self, event: E) -> bool:
        """Whether there is an answer to this event at all."""
        return True

    @abstractmethod
    def work(self, event: E) -> R:
        """The slow part."""

    @abstractmethod
    def nothing(self, event: E) -> R:
        """The result when work was not possible."""

    @abstractmethod
    def answer(self, event: E, result: R) -> Iterable[Any]:
        """What leaves the stage."""


@dataclass
class Ticket(Generic[E]):
    """An utterance that waits for what belongs to it.

    Attributes:
        event: the newest of the utterance.
        since: when it came, on the steady clock [s].
        given: whether a partial answer to it has left.
        shed: whether it goes on with nothing.
    """

    event: E
    since: float
    given: bool = False
    shed: bool = False


class Join(Stage, Generic[E]):
    """A stage that brings together what belongs to an utterance, in the order of the final ``principal`` events.

    Other events are kept by ``keep``. ``missing`` says how long an utterance may still wait.

    Attributes:
        expects: whether somebody outside this pipeline sends evidence of this modality, so that it may be on its way.
    """

    principal: ClassVar[type]
    expects: Callable[[str], bool]

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.expects = lambda modality: False
        self._waiting: OrderedDict[str, Ticket[E]] = OrderedDict()

    def is_over(self, event: Any) -> bool:
        """Only the principal events say that an utterance is over; parts of one that has left are forgotten in time."""
        return super().is_over(event) if self._is_principal(event) else False

    def process(self, event: Any) -> Iterable[Any]:
        """Take note of an event, and give what is complete now."""
        if self._is_principal(event):
            self._enter(event)
        else:
            self.keep(event)
        return self.advance(time.monotonic())

    def without(self, event: Any) -> Iterable[Any]:
        """An utterance goes on with nothing, in its place; the others as if the event had not come."""
        if self._is_principal(event):
            self._enter(event, shed=True)
        return self.advance(time.monotonic())

    @property
    def due(self) -> float | None:
        """When the first in the line has waited for long enough."""
        for ticket in self._waiting.values():
            if ticket.event.is_final:
                return ticket.since + self.missing(ticket)
        return None

    def advance(self, now: float) -> Iterator[Any]:
        """Give the final answers up to the first that is not complete, and every partial one that is."""
        blocked = False
        for identity, ticket in list(self._waiting.items()):
            final = ticket.event.is_final
            if not (ticket.shed or ticket.since + self.missing(ticket) <= now):
                blocked = blocked or final
            elif not final:
                if not ticket.given:
                    ticket.given = True
                    yield self._joined(ticket)
            elif not blocked:
                del self._waiting[identity]
                yield self._joined(ticket)
                self.forget(identity)

    def flush(self) -> Iterator[Any]:
        """Whatever waits goes on as it is; what is partial is forgotten."""
        for identity in [identity for identity, ticket in self._waiting.items() if not ticket.event.is_final]:
            del self._waiting[identity]
        yield from self.advance(float("inf"))

    def reset(self) -> None:
        """Forget what waits."""
        super().reset()
        self._waiting.clear()

    def _is_principal(self, event: Any) -> TypeGuard[E]:
        return isinstance(event, self.principal)

    def _enter(self, event: E, shed: bool = False) -> None:
        self._waiting.pop(event.utterance_id, None)
        self._waiting[event.utterance_id] = Ticket(event, time.monotonic(), shed=shed)
        unconfirmed = [identity for identity, ticket in self._waiting.items() if not ticket.event.is_final]
        for identity in unconfirmed[: max(len(unconfirmed) - REMEMBERED, 0)]:
            del self._waiting[identity]

    def _joined(self, ticket: Ticket[E]) -> Any:
        if not ticket.shed:
            errors = self.counts["errors"]
            try:
                joined = self.join(ticket.event)
                if self.counts["errors"] == errors:  # it may have gone on without a part that failed
                    self.succeeded()
                return joined
            except Exception as error:  # the utterances behind it have a right to leave
                self.report(error, f" on utterance {ticket.event.utterance_id}")
        return self.nothing(ticket.event)

    @abstractmethod
    def keep(self, event: Any) -> None:
        """Take note of something that belongs to an utterance."""

    @abstractmethod
    def missing(self, ticket: Ticket[E]) -> float:
        """How long an utterance may wait, from when it came, for what is not there yet [s]; 0: it is complete."""

    @abstractmethod
    def join(self, event: E) -> Any:
        """The answer to an utterance, with what is there."""

    @abstractmethod
    def nothing(self, event: E) -> Any:
        """The answer to an utterance of which nothing is known."""

    @abstractmethod
    def forget(self, identity: str) -> None:
        """An utterance has left."""
