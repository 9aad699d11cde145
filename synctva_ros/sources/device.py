"""What a microphone and a camera have in common: read on a thread of their own, opened again when they were lost."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

#: A driver that does not come back within this time is left alone when the device is stopped [s].
PATIENCE = 1.0


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


class Device(ABC):
    """Runs ``_run`` on a thread between ``start`` and ``stop``.

    Args:
        name: of the thread.
        clock: the node's time [ns].
        log: called with one sentence when the device is open.
        warn: called with one sentence when the device is lost or refused; for each reason once.

    Attributes:
        trouble: why the device gives nothing, as far as that is known.
    """

    def __init__(
        self, name: str, clock: Callable[[], int], log: Callable[[str], object], warn: Callable[[str], object]
    ) -> None:
        self._name = name
        self._clock = clock
        self._log = log
        self._warn = warn
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._connected = False
        self.trouble = ""

    @property
    def connected(self) -> bool:
        """Whether the device gives something."""
        return self._connected

    @connected.setter
    def connected(self, connected: bool) -> None:
        self._connected = connected
        if connected:
            self.trouble = ""

    def start(self) -> None:
        """Begin to read; a device that is not there yet is tried again and again."""
        self._stop = threading.Event()  # its own: what hangs from before must not come to life again
        self._thread = threading.Thread(target=self._go_on, args=(self._stop,), name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the device; if that hangs in its driver, it ends when the driver comes back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            self._thread = None
        self.connected = False

    def _go_on(self, stop: threading.Event) -> None:
        """Begin anew when something else than a lost device has ended the reading: nobody would hear of it."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                return self._run(stop)
            except Exception as error:
                if stop.is_set():
                    return
                if self.connected:  # it has worked in between
                    backoff.reset()
                self._lose(f"{self._name}: {type(error).__name__}: {error}", backoff)

    def _lose(self, reason: str, backoff: Backoff) -> None:
        """Note why the device gives nothing, and wait for the next attempt."""
        self.connected = False
        if reason != self.trouble:
            self.trouble = reason
            self._warn(f"{reason}; next attempt in {backoff.seconds:g} s")
        backoff.wait()

    @abstractmethod
    def _run(self, stop: threading.Event) -> None:
        """Read until ``stop`` is set; nothing may be given or said after that."""
