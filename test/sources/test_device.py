"""What happens when reading a device ends in a way that nobody thought of."""

import threading

import pytest

from synctva_ros.sources import device
from synctva_ros.sources.device import Device


class Moody(Device):
    """Raises what it is told to, one after the other; then it works until it is stopped."""

    def __init__(self, *moods):
        self.said = []
        super().__init__("moody", lambda: 0, self.said.append, self.said.append)
        self.moods = list(moods)
        self.works = threading.Event()
        self.states = []

    def _run(self, stop):
        self.states.append(self.connected)
        self.connected = True
        if self.moods:
            raise self.moods.pop(0)
        self.works.set()
        stop.wait()


@pytest.fixture
def at_once(monkeypatch):
    """Nobody waits between two attempts; how long they would have is noted."""
    waited = []
    monkeypatch.setattr(device.Backoff, "wait", lambda self: waited.append(self.seconds))
    return waited


def test_whatever_a_device_raises_is_said_and_it_is_tried_again(at_once):
    moody = Moody(TypeError("odd"), KeyError("x"))
    moody.start()
    assert moody.works.wait(60)
    moody.stop()
    assert moody.said == [
        "moody: TypeError: odd; next attempt in 0.5 s",
        "moody: KeyError: 'x'; next attempt in 0.5 s",
    ]
    assert len(at_once) == 2
    assert moody.states == [False, False, False], "after each failure it gives nothing, and says so"
    assert not moody.connected


def test_what_is_raised_after_the_end_is_not_said(at_once):
    class Late(Moody):
        def _run(self, stop):
            self.works.set()
            stop.wait()
            raise OSError("the handle is gone")

    late = Late()
    late.start()
    thread = late._thread
    assert late.works.wait(60)
    late.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert late.said == []


def test_one_that_has_nothing_more_to_read_is_not_read_again(at_once):
    class Short(Moody):
        def _run(self, stop):
            self.states.append(True)

    short = Short()
    short.start()
    short._thread.join(60)
    assert short.states == [True]
    short.stop()
