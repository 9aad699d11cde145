"""Waiting longer after each failure, for devices that are gone."""

from __future__ import annotations

import threading


class Backoff:
    """Waits ``first`` seconds, then twice as long each time, up to ``longest``; a success starts over."""

    def __init__(self, stop: threading.Event, first: float = 0.5, longest: float = 10.0) -> None:
        self._stop = stop
        self._first = first
        self._longest = longest
        self.seconds = first

    def wait(self) -> None:
        """Sleep for the present delay, or until stopped."""
        self._stop.wait(self.seconds)
        self.seconds = min(self.seconds * 2.0, self._longest)

    def reset(self) -> None:
        """The device works again."""
        self.seconds = self._first
