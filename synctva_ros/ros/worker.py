"""A thread that works through a bounded queue, so that an executor never computes."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class _Stop:
    """Wakes the thread up to end."""


class Worker(Generic[T]):
    """Calls ``work`` with each item, one after the other, in order, on a thread of its own.

    Args:
        name: of the thread.
        work: what to do with an item.
        size: items that may wait.
        latest_wins: when the queue is full, forget the oldest item (pictures) instead of refusing the new one.
        on_error: called with the exception when ``work`` raised; the thread lives on.
        prepare: called once on the thread before the first item (per-thread settings of libraries).
        due: when ``on_due`` is to be called on the thread unless an item comes, on the steady clock [s]; None: never.
        on_due: what to do then.

    """

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        size: int,
        on_error: Callable[[Exception], None],
        latest_wins: bool = False,
        prepare: Callable[[], None] = lambda: None,
        due: Callable[[], float | None] = lambda: None,
        on_due: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._queue: queue.Queue[T | _Stop] = queue.Queue(maxsize=size)
        self._latest_wins = latest_wins
        self._on_error = on_error
        self._prepare = prepare
        self._due = due
        self._on_due = on_due
        self._stop = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of items in the queue, the one in work not counted."""
        return self._queue.qsize()

    def put(self, item: T) -> bool:
        """Queue an item; return whether nothing had to be dropped for it."""
        kept = True
        while True:
            try:
                self._queue.put_nowait(item)
                return kept
            except queue.Full:
                self.dropped += 1
                if not self._latest_wins:
                    return False
                kept = False
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()

    def stop(self) -> None:
        """End the thread after the item in work; what still waits is given up."""
        self._stop.set()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread by itself
            self._queue.put_nowait(_Stop())
        self._thread.join()

    def _run(self) -> None:
        self._prepare()
        while True:
            due = self._due()
            try:
                item = self._queue.get(timeout=None if due is None else max(due - time.monotonic(), 0.0))
            except queue.Empty:
                self._attempt(self._on_due)
                continue
            if self._stop.is_set() or isinstance(item, _Stop):
                return
            self._attempt(partial(self._work, item))

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # whatever it is, the next item has a right to be worked on
            self._on_error(error)
