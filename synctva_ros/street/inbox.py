"""What waits for a stage: of partial events the newest of each utterance, every final one, of images the latest few."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from synctva_ros.events import Image

#: Images that wait to be looked at.
IMAGES = 4
#: Utterances of which something partial waits.
PARTIAL = 64
#: Events that are neither images nor about an utterance, such as reports of faces.
OTHERS = 1000


@dataclass(frozen=True)
class Waiting:
    """An event in the queue; a ``shed`` one is to be answered without work."""

    event: Any
    shed: bool = False


class Inbox:
    """A bounded queue with the street's rules; it may be filled and emptied by different threads.

    - A partial event takes the place of an older one of the same type and utterance; so does the final one.
    - Final events are never refused or dropped, and leave in the order in which they came. When ``size`` utterances
      wait, one that comes is kept without what takes memory, to be answered without work.
    - Of more than four images the oldest is dropped, and so it is of partial events of more than 64 utterances, and of
      more than 1000 other events.

    Args:
        size: final events that may wait to be worked on.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        #: How many events were ``shed`` (final ones), ``skipped`` (images) or ``lost`` (others); a partial one in whose
        #: place another one came is none of them.
        self.counts: Counter[str] = Counter(shed=0, skipped=0, lost=0)

    @property
    def waiting(self) -> int:
        """Final events of utterances in the queue."""
        with self._changed:
            return self._finals()

    def put(self, event: Any) -> bool:
        """Queue an event; returns False for a final one that will be answered without work."""
        with self._changed:
            identity = getattr(event, "utterance_id", None)
            if identity is not None:
                self._drop(lambda old: type(old) is type(event) and old.utterance_id == identity and not old.is_final)
            shed = _is_utterance(event) and event.is_final and self._finals() >= self._size
            if shed:
                self.counts["shed"] += 1
            elif (bound := _bound(event)) is not None:
                count, most = bound
                if sum(_bound(old.event) == bound for old in self._queue) >= most:
                    self._drop(lambda old: _bound(old) == bound, most=1)
                    self.counts[count] += 1
            self._queue.append(Waiting(event.stripped() if shed else event, shed))
            self._changed.notify()
            return not shed

    def get(self, due: Callable[[], float | None]) -> Waiting | None:
        """Wait for an event and take it; None when it is ``due`` [s, steady clock] or the inbox is closed."""
        with self._changed:
            while not self._queue and not self._closed:
                until = due()
                rest = None if until is None else until - time.monotonic()
                if rest is not None and rest <= 0.0:
                    return None
                self._changed.wait(rest)
            return self._queue.popleft() if self._queue and not self._closed else None

    def close(self) -> list[Waiting]:
        """Wake up who waits for an event, for good; returns what was still in the queue."""
        with self._changed:
            self._closed = True
            left, self._queue = list(self._queue), deque()
            self._changed.notify_all()
            return left

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def _finals(self) -> int:
        return sum(_is_utterance(old.event) and old.event.is_final for old in self._queue)

    def _drop(self, which: Callable[[Any], bool], most: int = OTHERS) -> None:
        kept: deque[Waiting] = deque()
        for old in self._queue:
            if most and which(old.event):
                most -= 1
            else:
                kept.append(old)
        self._queue = kept


def _bound(event: Any) -> tuple[str, int] | None:
    """How an event that is dropped is counted, and how many of its kind may wait; None: it is never dropped."""
    if isinstance(event, Image):
        return "skipped", IMAGES
    if not hasattr(event, "is_final"):
        return "lost", OTHERS
    return None if event.is_final else ("lost", PARTIAL)


def _is_utterance(event: Any) -> bool:
    """Whether an event is an utterance itself, with what takes memory, and not only something that belongs to one."""
    return hasattr(event, "stripped")
