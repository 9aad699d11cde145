"""How a command ends: with its own status, with one sentence, or when somebody says so; not late, and no traceback.

Ctrl-C and SIGTERM raise :class:`Interrupted` in the main thread, so that what was begun is taken down. A library that
does not let go of that thread, or swallows the exception, is not waited for longer than ``patience``.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: Seconds from the signal to the end of the process; while models load and there is more to take down, LOADING.
WORKING, LOADING = 1.8, 4.5
#: Exit status when whoever reads the output has gone, as the shell says it of other programs.
BROKEN_PIPE = 128 + signal.SIGPIPE
SIGNALS = (signal.SIGINT, signal.SIGTERM)

patience = WORKING
_quieten: Callable[[], object] = int


class Failure(Exception):
    """A command cannot do what was asked of it; the message is one sentence for the user."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came; ``status`` is the exit status that belongs to it."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "told to stop (SIGTERM)")
        self.status = 128 + number

    def say(self, error: BaseException | None = None) -> None:
        """Say so, with the notes of the exception that it came out as."""
        if sys.stderr.isatty() or "tqdm" in sys.modules:  # behind the ^C at a terminal, or an unfinished bar
            print(file=sys.stderr)
        say("; ".join((str(self), *getattr(error, "__notes__", ()))))


@contextmanager
def loading() -> Iterator[None]:
    """Within, an interruption may take longer: a model that is being loaded can be let go of only when it is there."""
    global patience
    patience = LOADING
    try:
        yield
    finally:
        patience = WORKING


def quieten(how: Callable[[], object]) -> None:
    """Let ``how`` silence a library's log from the first signal on: then only the command itself says something."""
    global _quieten
    _quieten = how


def say(sentence: str) -> None:
    """Say what the matter is on standard error, in the name of the command."""
    with suppress(OSError):  # nobody reads it
        print(f"synctva: {sentence}", file=sys.stderr, flush=True)


def guard(command: Callable[[], int], *, is_process: bool = False) -> int:
    """Run a command and return its exit status, however it ends.

    Args:
        command: returns its status, or raises ``Failure``, ``OSError``, ``ValueError`` or ``ImportError``, whose
            message is one sentence for the user.
        is_process: nothing comes behind it: what is stuck in a library is left to the end of the process.
    """
    watch = _Watch()
    try:
        try:
            try:
                status = command()
            finally:
                sys.stdout.flush()  # here, so that it is known whether it went through
        except BaseException as error:
            status = _explain(error, watch.interruption)
    finally:
        watch.close(is_process)
    if is_process and any(thread.daemon for thread in threading.enumerate()):
        with suppress(Exception):
            atexit._run_exitfuncs()
        _leave(status)  # Python would take the libraries down under the feet of who is stuck in them
    return status


def _explain(error: BaseException, interruption: Interrupted | None) -> int:
    """What to say of an exception, and the exit status."""
    if interruption is None and isinstance(error, KeyboardInterrupt):
        interruption = Interrupted(signal.SIGINT)
    if interruption is not None:  # whatever a library made of it
        interruption.say(error)
        return interruption.status
    if isinstance(error, BrokenPipeError):  # `| head`: it has seen enough
        _silence()
        return BROKEN_PIPE
    if isinstance(error, Failure | OSError | ValueError | ImportError):
        say(" ".join(str(error).split()) or type(error).__name__)
        return 1
    raise error


def _silence() -> None:
    """Let what is still in the buffer of standard output go nowhere, without a word."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(status: int) -> None:
    """End the process now, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class _Watch:
    """Takes the two signals, and ends the process when the main thread does not."""

    def __init__(self) -> None:
        #: The first that came.
        self.interruption: Interrupted | None = None
        self._ended = threading.Event()
        self._before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        # The main thread may be inside a library, where Python cannot tell it: the number comes through a pipe too.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self._before = {number: signal.signal(number, self._raise) for number in SIGNALS}
        self._thread = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._thread.start()

    def close(self, is_process: bool) -> None:
        """Give the signals back, or let what ends anyhow not be interrupted."""
        self._ended.set()
        if not self._before:
            return
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if is_process else before)
        signal.set_wakeup_fd(self._fd_before)
        sys.unraisablehook = self._hook_before
        os.close(self._writer)
        self._thread.join()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        # A second one must not cut the taking down short.
        if self.interruption is None and not self._ended.is_set():
            if _is_importing(frame):
                # A library of C++ that is interrupted while it is being imported ends the process by abort().
                main = threading.main_thread().ident  # which may be waiting by then, and shall not go on with that
                again = threading.Timer(0.02, signal.pthread_kill, (main, number))
                again.daemon = True
                again.start()
                return
            self.interruption = Interrupted(number)
            _quieten()
            raise self.interruption

    def _watch(self) -> None:
        number = 0
        with open(self._reader, "rb", buffering=0) as pipe:
            while number not in SIGNALS:
                told = pipe.read(1)
                if not told:
                    return
                number = told[0]
            # The pipe stays open: a second signal is written into it too.
            if not self._ended.wait(patience):
                interruption = self.interruption or Interrupted(number)
                interruption.say()
                _leave(interruption.status)

    def _unraisable(self, unraisable: Any) -> None:
        """Without a word of an interruption that hit a place that cannot raise; the watch ends the process then."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._hook_before(unraisable)
