"""A microphone through PortAudio (sounddevice): chunks with the time of their first sample at the ADC."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from synctva_ros import config
from synctva_ros.events import NANOSECONDS, AudioChunk, FloatArray
from synctva_ros.plural import counted
from synctva_ros.sources import new_stream_id
from synctva_ros.sources.device import Backoff, Device

#: A device that gives nothing for this long is lost [s]: PortAudio often just stops calling.
SILENT_AFTER = 1.5
#: An ADC time further away from now than this is not one [s]: some host APIs leave it 0.
PLAUSIBLE = 2.0

#: What PortAudio says of a rate or a number of channels that a device does not take.
INVALID_RATE = "Invalid sample rate"
INVALID_CHANNELS = "Invalid number of channels"


class SourceError(RuntimeError):
    """A source cannot give anything; the message says what is wrong and what to do."""


@dataclass
class MicrophoneCounters:
    """What happened so far, for diagnostics."""

    chunks: int = 0
    overflows: int = 0
    dropped: int = 0
    reconnects: int = 0


def load_sounddevice() -> Any:
    """Import sounddevice; it needs the system's PortAudio library.

    Raises:
        SourceError: the library is missing.

    """
    try:
        import sounddevice
    except OSError as error:
        raise SourceError(f"{error}: a live microphone needs PortAudio; run: sudo apt install libportaudio2") from error
    return sounddevice


def adc_stamp(now: int, current: float, adc: float, frames: int, sample_rate: int) -> int:
    """Time of the first sample [ns] on the clock that says ``now``.

    Args:
        now: the node's clock when PortAudio called [ns].
        current: PortAudio's own clock at that moment [s].
        adc: PortAudio's time of the first sample [s]; 0 or nonsense where the host API has none.
        frames: number of samples per channel in the buffer.
        sample_rate: [Hz].

    Without a usable ADC time the buffer is taken to have ended just now; it cannot have ended later.

    """
    shortest = frames / sample_rate
    age = current - adc
    if adc <= 0.0 or not shortest <= age <= PLAUSIBLE:
        age = shortest
    return now - round(age * NANOSECONDS)


class Microphone(Device):
    """Reads a microphone on a thread of its own until stopped, and opens it again when it was lost.

    Args:
        config: device, rate, channels, length of a chunk and frame.
        clock: the node's time [ns].
        on_chunk: called with each chunk from the microphone's thread.
        log: called with one sentence when the device is open.
        warn: called with one sentence when the device is lost or refused, or used in another way than asked.

    """

    def __init__(
        self,
        config: config.Microphone,
        *,
        clock: Callable[[], int],
        on_chunk: Callable[[AudioChunk], None],
        log: Callable[[str], object],
        warn: Callable[[str], object],
    ) -> None:
        super().__init__("microphone", clock, log, warn)
        self._sounddevice = load_sounddevice()
        self._device: str | int | None = int(config.device) if config.device.isdigit() else (config.device or None)
        self._sample_rate = config.sample_rate
        self._channels = config.channels
        self._frames = max(round(config.chunk * config.sample_rate), 1)
        self._frame_id = config.frame_id
        self._on_chunk = on_chunk
        self._queue: queue.Queue[tuple[int, int, FloatArray]] = queue.Queue(maxsize=200)
        self._sequence = 0
        self.counters = MicrophoneCounters()

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(stop)
        first = True
        while not stop.is_set():
            try:
                if not first:
                    # PortAudio lists the devices once; only a restart sees one that was plugged in again.
                    if self._sounddevice._initialized:  # not so when the last restart got only half-way
                        self._sounddevice._terminate()
                    self._sounddevice._initialize()
                first = False
                self._read(backoff, stop)
            except (self._sounddevice.PortAudioError, ValueError) as error:
                if not stop.is_set():
                    self.connected = False
                    if self._takes_own(error):
                        continue
                    name = "default input" if self._device is None else self._device
                    what = f"asked for {self._sample_rate} Hz, {counted(self._channels, 'channel')}"
                    self.counters.reconnects += 1
                    self._lose(f"microphone {name!r}: {error} ({what})", backoff)

    def _takes_own(self, error: Exception) -> bool:
        """Whether the device refused a rate or number of channels and has its own, which is taken from now on."""
        try:
            device = self._sounddevice.query_devices(self._device, "input")
        except (self._sounddevice.PortAudioError, ValueError):
            return False
        rate, channels = round(device["default_samplerate"]), device["max_input_channels"]
        if INVALID_RATE in str(error) and rate not in (0, self._sample_rate):
            self._warn(
                f"microphone {device['name']!r} does not take {self._sample_rate} Hz; its own {rate} Hz are taken: set "
                "microphone.sample_rate"
            )
            self._frames = max(round(self._frames * rate / self._sample_rate), 1)
            self._sample_rate = rate
            return True
        if INVALID_CHANNELS in str(error) and channels not in (0, self._channels):
            self._warn(
                f"microphone {device['name']!r} does not give {counted(self._channels, 'channel')}; its own {channels} "
                "are taken: set microphone.channels"
            )
            self._channels = channels
            return True
        return False

    def _read(self, backoff: Backoff, stop: threading.Event) -> None:
        stream_id = new_stream_id("m")
        self._sequence = 0
        while not self._queue.empty():
            self._queue.get_nowait()
        with self._sounddevice.InputStream(
            device=self._device,
            samplerate=self._sample_rate,
            channels=self._channels,
            blocksize=self._frames,
            dtype="float32",
            callback=self._callback,
        ) as stream:
            sequence = -1
            last = time.monotonic()
            try:
                while not stop.is_set():
                    try:
                        sequence, stamp, samples = self._queue.get(timeout=0.1)
                    except queue.Empty:
                        if not stream.active or time.monotonic() - last > SILENT_AFTER:
                            raise ValueError("the device stopped giving sound (unplugged?)") from None
                        continue
                    last = time.monotonic()
                    if not self.connected:
                        self.connected = True
                        backoff.reset()
                        name = self._sounddevice.query_devices(stream.device)["name"]
                        what = f"{self._sample_rate} Hz, {counted(self._channels, 'channel')}"
                        self._log(f"microphone {name!r} is open: {what}")
                    self.counters.chunks += 1
                    self._on_chunk(
                        AudioChunk(stream_id, sequence, stamp, self._sample_rate, samples, frame_id=self._frame_id)
                    )
            finally:
                if sequence >= 0:  # so that what was being said when the device went is not kept waiting
                    nothing = np.zeros((0, self._channels), np.float32)
                    self._on_chunk(
                        AudioChunk(
                            stream_id, sequence + 1, self._clock(), self._sample_rate, nothing, True, self._frame_id
                        )
                    )

    def _callback(self, data: FloatArray, frames: int, when: Any, status: Any) -> None:
        """Run on PortAudio's thread, so it only copies."""
        stamp = adc_stamp(self._clock(), when.currentTime, when.inputBufferAdcTime, frames, self._sample_rate)
        if status.input_overflow:
            self.counters.overflows += 1
        try:
            self._queue.put_nowait((self._sequence, stamp, np.array(data, np.float32)))
        except queue.Full:
            self.counters.dropped += 1
        self._sequence += 1  # also for a dropped one, so that the gap is seen
