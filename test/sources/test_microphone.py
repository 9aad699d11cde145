"""The microphone with a stub in place of sounddevice: opening, dying, coming back."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synctva_ros import config
from synctva_ros.events import NANOSECONDS
from synctva_ros.sources import microphone
from synctva_ros.sources.device import Backoff
from synctva_ros.sources.microphone import PLAUSIBLE, Microphone, SourceError, adc_stamp, load_sounddevice

NOW = 1_700_000_000 * NANOSECONDS
RATE, CHUNK = 16000, 0.03


# --- time of the first sample

times = st.floats(allow_nan=True, allow_infinity=True)


@given(times, times, st.integers(1, 100_000), st.integers(8000, 192_000))
def test_the_stamp_is_never_in_the_future_nor_far_back(current, adc, frames, rate):
    stamp = adc_stamp(NOW, current, adc, frames, rate)
    age = (NOW - stamp) / NANOSECONDS
    assert frames / rate - 1e-6 <= age <= max(PLAUSIBLE, frames / rate) + 1e-6


@pytest.mark.parametrize(
    ("current", "adc", "age"),
    [
        (100.0, 99.9, 0.1),  # plausible
        (100.0, 0.0, CHUNK),  # the host API has no ADC time
        (1.0, 0.0, CHUNK),
        (100.0, 100.5, CHUNK),  # in the future
        (100.0, 99.99, CHUNK),  # before the buffer can have been full
        (100.0, 97.0, CHUNK),  # too long ago
        (100.0, float("nan"), CHUNK),
    ],
)
def test_an_implausible_adc_time_is_not_taken(current, adc, age):
    stamp = adc_stamp(NOW, current, adc, round(CHUNK * RATE), RATE)
    assert (NOW - stamp) / NANOSECONDS == pytest.approx(age, abs=1e-6)


# --- the device


class PortAudioError(Exception):
    """As sounddevice has it."""


class StubSoundDevice:
    """What ``Microphone`` needs of the module ``sounddevice``; ``plan`` says how each opening goes.

    An item of the plan is an exception, or how many chunks the device gives before it falls silent; ``hangs`` says
    whether it then still claims to be active.
    """

    PortAudioError = PortAudioError

    def __init__(self, plan, hangs=False):
        self.plan = list(plan)
        self.hangs = hangs
        self.opened = []
        self.closed = 0
        self.restarts = 0
        self._initialized = 1

    def _terminate(self):
        if not self._initialized:
            raise PortAudioError("PortAudio not initialized")
        self._initialized -= 1

    def _initialize(self):
        self.restarts += 1
        self._initialized += 1

    def query_devices(self, device, kind=None):
        return {"name": f"stub {device}", "default_samplerate": 48000.0, "max_input_channels": 6}

    def InputStream(self, **options):
        step = self.plan.pop(0) if self.plan else 10**9
        self.opened.append((time.monotonic(), options))
        if isinstance(step, Exception):
            raise step
        return StubStream(self, step, **options)


class StubStream:
    def __init__(self, module, count, *, device, samplerate, channels, blocksize, dtype, callback):
        self.device = 3
        self.active = True
        self._module, self._count = module, count
        self._callback, self._shape = callback, (blocksize, channels)
        self._end = threading.Event()
        assert dtype == "float32"

    def __enter__(self):
        self._thread = threading.Thread(target=self._give, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self._module.closed += 1

    def _give(self):
        buffer = np.zeros(self._shape, np.float32)
        for number in range(self._count):
            if self._end.wait(0.002):
                return
            buffer[:] = number  # PortAudio uses its buffer again
            when = SimpleNamespace(currentTime=100.0, inputBufferAdcTime=99.9)
            self._callback(buffer, len(buffer), when, SimpleNamespace(input_overflow=number % 5 == 4))
        self.active = self._module.hangs


def make(monkeypatch, module, device="", channels=1, on_chunk=None, backoff=0.02, frame_id="microphone"):
    monkeypatch.setattr(microphone, "load_sounddevice", lambda: module)
    monkeypatch.setattr(microphone, "Backoff", lambda stop: Backoff(stop, backoff, 8 * backoff))
    chunks, reports = [], []
    made = Microphone(
        config.Microphone(device, RATE, channels, CHUNK, frame_id),
        clock=lambda: NOW,
        on_chunk=on_chunk or chunks.append,
        log=reports.append,
        warn=reports.append,
    )
    return made, chunks, reports


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_chunks_come_in_order_with_their_times_and_own_samples(monkeypatch):
    module = StubSoundDevice([10**9])
    mic, chunks, reports = make(monkeypatch, module, channels=2)
    mic.start()
    until(lambda: len(chunks) >= 20)
    assert mic.connected
    mic.stop()
    assert not mic.connected
    *heard, last = chunks
    assert [chunk.sequence for chunk in heard] == list(range(len(heard)))
    assert len({chunk.stream_id for chunk in chunks}) == 1
    assert chunks[0].stream_id[0].isalpha()
    for number, chunk in enumerate(heard):
        assert chunk.samples.shape == (round(CHUNK * RATE), 2)
        assert (chunk.samples == number).all()
        assert chunk.stamp == NOW - NANOSECONDS // 10
    assert (last.end_of_stream, last.sequence, last.samples.shape) == (True, len(heard), (0, 2))
    assert reports == ["microphone 'stub 3' is open: 16000 Hz, 2 channels"]
    assert mic.counters.chunks == len(heard)
    assert mic.counters.overflows >= 3
    assert module.closed == 1


@pytest.mark.parametrize(("given", "asked"), [("", None), ("2", 2), ("USB", "USB")])
def test_the_device_is_asked_for_by_index_or_name(monkeypatch, given, asked):
    module = StubSoundDevice([10**9])
    mic, chunks, _ = make(monkeypatch, module, given)
    mic.start()
    until(lambda: chunks)
    mic.stop()
    options = module.opened[0][1]
    assert options["device"] == asked
    assert (options["samplerate"], options["channels"], options["blocksize"]) == (RATE, 1, 480)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_device_that_dies_comes_back_as_a_new_stream(monkeypatch, hangs):
    monkeypatch.setattr(microphone, "SILENT_AFTER", 0.2 if hangs else 60.0)
    module = StubSoundDevice([5, 10**9], hangs)
    mic, chunks, reports = make(monkeypatch, module, frame_id="head_microphone")
    mic.start()
    until(lambda: len({chunk.stream_id for chunk in chunks}) == 2)
    mic.stop()
    assert {chunk.frame_id for chunk in chunks} == {"head_microphone"}
    first = [chunk for chunk in chunks if chunk.stream_id == chunks[0].stream_id]
    second = chunks[len(first) :]
    assert [chunk.sequence for chunk in first] == [0, 1, 2, 3, 4, 5]
    assert [chunk.end_of_stream for chunk in first] == [False] * 5 + [True]  # what was being said is not kept waiting
    assert [chunk.sequence for chunk in second] == list(range(len(second)))
    assert [report.split(":")[0] for report in reports] == [
        "microphone 'stub 3' is open",
        "microphone 'default input'",
        "microphone 'stub 3' is open",
    ]
    assert "unplugged" in reports[1]
    assert "next attempt in 0.02 s" in reports[1]
    assert mic.counters.reconnects == 1
    assert module.restarts == 1  # only so does PortAudio see the device again


def test_the_wait_grows_while_the_device_is_refused_and_starts_over_afterwards(monkeypatch):
    refused = PortAudioError("Error opening InputStream: Device unavailable")
    unknown = ValueError("No input device matching 'USB'")
    module = StubSoundDevice([refused, unknown, refused, refused, refused, 3, refused, 10**9])
    mic, _, reports = make(monkeypatch, module, "USB")
    mic.start()
    until(lambda: len(module.opened) == 8 and mic.connected)
    mic.stop()
    opened = np.diff([when for when, _ in module.opened])
    assert (opened >= np.array([0.02, 0.04, 0.08, 0.16, 0.16, 0.02, 0.04]) - 1e-3).all()
    asked = "(asked for 16000 Hz, 1 channel); next attempt in"
    assert [report.removeprefix("microphone 'USB': ") for report in reports] == [
        f"Error opening InputStream: Device unavailable {asked} 0.02 s",
        f"No input device matching 'USB' {asked} 0.04 s",
        f"Error opening InputStream: Device unavailable {asked} 0.08 s",  # and then no more of it: it was said
        "microphone 'stub 3' is open: 16000 Hz, 1 channel",
        f"the device stopped giving sound (unplugged?) {asked} 0.02 s",
        f"Error opening InputStream: Device unavailable {asked} 0.04 s",
        "microphone 'stub 3' is open: 16000 Hz, 1 channel",
    ]
    assert mic.counters.reconnects == 7


def test_why_there_is_no_sound_is_known_until_there_is(monkeypatch):
    module = StubSoundDevice([PortAudioError("gone")] * 3 + [10**9])
    mic, chunks, _ = make(monkeypatch, module, "USB", backoff=0.5)
    assert mic.trouble == ""
    mic.start()
    until(lambda: mic.trouble)
    assert mic.trouble == "microphone 'USB': gone (asked for 16000 Hz, 1 channel)"
    assert not mic.connected
    until(lambda: chunks)
    assert mic.connected
    assert mic.trouble == ""
    mic.stop()


def test_a_rate_that_the_device_does_not_take_gives_way_to_its_own(monkeypatch):
    refused = PortAudioError("Error opening InputStream: Invalid sample rate")
    module = StubSoundDevice([refused, 10**9])
    mic, chunks, reports = make(monkeypatch, module, "USB")
    mic.start()
    until(lambda: chunks)
    mic.stop()
    assert [(options["samplerate"], options["blocksize"]) for _, options in module.opened] == [
        (RATE, 480),
        (48000, 1440),
    ]
    assert chunks[0].sample_rate == 48000
    assert reports == [
        "microphone 'stub USB' does not take 16000 Hz; its own 48000 Hz are taken: set microphone.sample_rate",
        "microphone 'stub 3' is open: 48000 Hz, 1 channel",
    ]


def test_a_number_of_channels_that_the_device_does_not_give_gives_way_to_its_own(monkeypatch):
    refused = PortAudioError("Error opening InputStream: Invalid number of channels [PaErrorCode -9998]")
    module = StubSoundDevice([refused, 10**9])
    mic, chunks, reports = make(monkeypatch, module, "array")
    mic.start()
    until(lambda: chunks)
    mic.stop()
    assert [options["channels"] for _, options in module.opened] == [1, 6]
    assert chunks[0].samples.shape == (480, 6)
    assert reports == [
        "microphone 'stub array' does not give 1 channel; its own 6 are taken: set microphone.channels",
        "microphone 'stub 3' is open: 16000 Hz, 6 channels",
    ]


def test_a_rate_that_nothing_helps_with_is_mentioned(monkeypatch):
    refused = PortAudioError("Error opening InputStream: Invalid sample rate")
    mic, _, reports = make(monkeypatch, StubSoundDevice([refused] * 9), "USB")
    mic.start()
    until(lambda: len(reports) >= 2)
    mic.stop()
    assert "Invalid sample rate (asked for 48000 Hz, 1 channel); next attempt" in reports[1]


def test_portaudio_that_does_not_start_again_at_once_is_tried_again(monkeypatch):
    module = StubSoundDevice([PortAudioError("gone"), 10**9])
    failures = [PortAudioError("not yet"), PortAudioError("not yet")]
    start = module._initialize

    def initialize():
        if failures:
            raise failures.pop()
        start()

    monkeypatch.setattr(module, "_initialize", initialize)
    mic, chunks, _ = make(monkeypatch, module)
    mic.start()
    until(lambda: chunks)
    mic.stop()
    assert failures == []


def test_stop_is_quick_also_while_waiting_for_the_device(monkeypatch):
    before = threading.active_count()
    module = StubSoundDevice([PortAudioError("gone")] * 100)
    mic, _, reports = make(monkeypatch, module, backoff=60.0)
    mic.start()
    until(lambda: reports)
    begun = time.monotonic()
    mic.stop()
    assert time.monotonic() - begun < 30.0
    assert threading.active_count() == before
    mic.stop()  # twice does no harm


def test_it_can_be_started_again(monkeypatch):
    mic, chunks, _ = make(monkeypatch, StubSoundDevice([]))
    for streams in (1, 2):
        mic.start()
        until(lambda: len({chunk.stream_id for chunk in chunks}) == streams)  # noqa: B023
        mic.stop()


def test_chunks_that_nobody_fetched_in_time_leave_a_jump_in_the_numbers(monkeypatch):
    chunks, slow = [], threading.Event()

    def on_chunk(chunk):
        chunks.append(chunk)
        slow.wait(10.0)  # until the queue has overflown

    mic, _, _ = make(monkeypatch, StubSoundDevice([10**9]), on_chunk=on_chunk)
    mic.start()
    until(lambda: mic.counters.dropped >= 20)
    slow.set()
    until(lambda: len(chunks) > 250)
    mic.stop()
    sequences = [chunk.sequence for chunk in chunks]
    missing = sequences[-1] - len(sequences) + 1
    assert sequences == sorted(set(sequences))
    assert 20 <= missing <= mic.counters.dropped
    assert all((chunk.samples == chunk.sequence).all() for chunk in chunks[:-1])


# --- PortAudio itself


def test_missing_portaudio_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceError, match=r"PortAudio library not found.*libportaudio2"):
        load_sounddevice()
