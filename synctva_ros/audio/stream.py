"""Chunks as they come → one gapless run of mono samples at 16 kHz, each with its time at the source.

``ChunkOrderer`` puts chunks back in order and says which were lost; ``ChannelMixer`` makes one channel of several;
``SampleStream`` cleans, resamples and keeps the map from sample to time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, FloatArray
from synctva_ros.plural import counted

#: A chunk's stamp that differs by more than this from the sample count is a jump, not jitter or drift [s].
CLOCK_JUMP = 0.1
#: Share of a stamp's deviation that moves the sample clock: follows drift, averages jitter out.
CLOCK_GAIN = 0.02
#: All-zero sound for this long is a muted or dead microphone [s].
DEAD_AFTER = 5.0
#: On a channel whose level is this far above its own background something is heard [dB].
HEARD = 10.0
#: No background is lower than this [dB], full scale is 0; a channel without any noise would be above it at once.
LOWEST = -70.0
#: The background follows a level that falls at once, and one that rises so fast [dB/s].
BACKGROUND_RISE = 2.0
#: A channel on which nothing is heard for this long gives way to one on which something is [s] ...
CHANNEL_HOLD = 0.3
#: ... and otherwise only to one with so many times its power for so long [s].
LOUDER = 10.0
LOUDER_FOR = 0.15
#: A channel fades in and out in this time [s].
CHANNEL_FADE = 0.01
#: So many chunks that were there before are no accident of the transport.
MANY_DUPLICATES = 50
#: Which samples came from which chunk is remembered for so long [s].
REMEMBERED = 60.0


@dataclass
class StreamCounters:
    """What happened to the sound so far, for diagnostics."""

    chunks: int = 0
    lost: int = 0
    duplicate: int = 0
    late: int = 0
    not_finite: int = 0
    clock_jumps: int = 0


class ChunkOrderer:
    """Gives the chunks of one stream in the order of their sequence numbers.

    A chunk that comes too early waits until the missing ones arrive, or until more than ``max_waiting`` chunks wait:
    then the missing ones are lost. Duplicates and chunks that come after they were given up are dropped and counted.
    What was sent before the first chunk that came is not counted as lost.
    """

    def __init__(self, max_waiting: int, counters: StreamCounters) -> None:
        self._max_waiting = max_waiting
        self._counters = counters
        self._waiting: dict[int, AudioChunk] = {}
        self._next: int | None = None
        self._begun = False
        self._given_up: set[int] = set()

    @property
    def next_sequence(self) -> int:
        """Number of the chunk that comes after all that came."""
        return max(self._waiting, default=(self._next or 0) - 1) + 1

    def has_had(self, sequence: int) -> bool:
        """Whether a chunk of this number came, as far as is known; not so one that was given up."""
        before = self._next is not None and sequence < self._next and sequence not in self._given_up
        return before or sequence in self._waiting

    def push(self, chunk: AudioChunk) -> Iterator[tuple[int, AudioChunk]]:
        """Take a chunk; yield ``(lost, chunk)``: how many were lost just before it, and the next one in order."""
        self._counters.chunks += 1
        if self._next is None:
            # A stream counts from 0: its very first chunks may have been swapped on their way.
            self._next = 0 if chunk.sequence <= self._max_waiting else chunk.sequence
        if self.has_had(chunk.sequence):
            self._counters.duplicate += 1
            return
        if chunk.sequence < self._next:
            self._given_up.discard(chunk.sequence)
            self._counters.late += 1
            return
        self._waiting[chunk.sequence] = chunk
        yield from self._release(flush=chunk.end_of_stream)

    def flush(self) -> Iterator[tuple[int, AudioChunk]]:
        """Yield all that waits; what is missing in between is lost."""
        yield from self._release(flush=True)

    def _release(self, flush: bool) -> Iterator[tuple[int, AudioChunk]]:
        assert self._next is not None or not self._waiting
        while self._waiting:
            assert self._next is not None
            lost = 0
            if self._next not in self._waiting:
                if len(self._waiting) <= self._max_waiting and not flush:
                    return
                following = min(self._waiting)
                lost = following - self._next if self._begun else 0
                self._counters.lost += lost
                # Remembered only to tell a late chunk from a duplicate, so a few are enough.
                self._given_up = set(range(max(self._next, following - 64), following))
                self._next = following
            chunk = self._waiting.pop(self._next)
            self._next += 1
            self._begun = True
            yield lost, chunk


class ChannelMixer:
    """Makes one channel of several, as the parameter ``channel`` of the node ``utterance`` says.

    ``mean`` averages them: what has opposite polarity cancels. A number takes that one. ``loudest`` takes the one on
    which somebody is heard; it looks at each chunk before it gives it on, so that no start of speech is lost:

    - On a channel something is heard when its level is 10 dB above its own background: a constant noise is not.
    - The channel that was taken stays as long as something is heard on it, and 0.3 s longer. After that the loudest one
      on which something is heard takes its place: in a call with a speaker on each side, whoever speaks.
    - Before, another one that is heard with ten times its power is only added; what was taken is not cut. Has that one
      ten times the power over 0.15 s, it takes its place.

    Args:
        warn: called with one sentence for a channel that does not exist; the loudest one is taken then.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._missing: set[str] = set()
        self._taken = 0
        self._quiet = 0.0  # for how long nothing has been heard on it [s]
        self._background: FloatArray = np.zeros(0, np.float32)  # of each channel [dB]
        self._recent: deque[tuple[float, FloatArray]] = deque()  # length [s] and power of the last chunks
        self._gains: FloatArray = np.zeros(0, np.float32)  # at the end of the last chunk

    def mix(self, samples: FloatArray, rate: int, wanted: str) -> FloatArray:
        """One channel ``[n]`` of ``samples`` ``[n, channels]``."""
        channels = samples.shape[1]
        if channels == 1:
            return samples[:, 0]
        if wanted == "mean":
            mean: FloatArray = samples.mean(axis=1)
            return mean
        if wanted != "loudest":
            if int(wanted) < channels:
                return samples[:, int(wanted)]
            if wanted not in self._missing:
                self._missing.add(wanted)
                self._warn(
                    f"there is no channel {wanted} among the {channels} of the sound, which count from 0; the loudest "
                    "is taken: set utterance.channel"
                )
        return self._loudest(samples, rate) if len(samples) else samples[:, 0]

    def _loudest(self, samples: FloatArray, rate: int) -> FloatArray:
        seconds = len(samples) / rate
        power: FloatArray = samples.var(axis=0)  # without what is constant
        level = np.maximum(10.0 * np.log10(np.maximum(power, 1e-12)), LOWEST)
        begins = len(self._background) != len(level)
        if begins:
            self._background = level
            self._taken, self._quiet = int(power.argmax()), 0.0
            self._recent.clear()
        self._background = np.minimum(level, self._background + BACKGROUND_RISE * seconds)
        self._recent.append((seconds, power))
        while sum(length for length, _ in self._recent) - self._recent[0][0] >= LOUDER_FOR:
            self._recent.popleft()
        recent = np.sum([length * of_chunk for length, of_chunk in self._recent], axis=0)
        heard = level > self._background + HEARD
        self._quiet = 0.0 if heard[self._taken] else self._quiet + seconds
        rival = int(np.where(heard, power, -1.0).argmax())
        if heard[rival] and (self._quiet >= CHANNEL_HOLD or recent[rival] > LOUDER * recent[self._taken]):
            self._taken, self._quiet = rival, 0.0
        gains = np.zeros(len(level), np.float32)
        gains[self._taken] = 1.0
        if heard[rival] and power[rival] > LOUDER * power[self._taken]:
            gains[rival] = 1.0
        before, self._gains = gains if begins else self._gains, gains
        fade = np.minimum(np.arange(len(samples), dtype=np.float32) / max(CHANNEL_FADE * rate, 1.0), 1.0)[:, None]
        mixed: FloatArray = (samples * (before + (gains - before) * fade)).sum(axis=1)
        return mixed


@dataclass(frozen=True)
class Run:
    """Consecutive mono samples ``[n]`` at 16 kHz; ``position`` counts samples from the start of the stream.

    ``gap`` [s] is the time missing just before.
    """

    position: int
    samples: FloatArray
    gap: float


class SampleStream:
    """One source's chunks as 16 kHz mono samples with a clock.

    Args:
        warn: called with one sentence for what a person should know (not once per chunk).
        frame_id: of its source.
        max_waiting: chunks that may wait for a missing one before it is given up.
        config: says which channel is heard; it may be changed at any time.

    """

    def __init__(
        self,
        stream_id: str,
        warn: Callable[[str], None],
        frame_id: str = "",
        max_waiting: int = 5,
        config: Turns | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.frame_id = frame_id
        self.counters = StreamCounters()
        self._warn = warn
        self._orderer = ChunkOrderer(max_waiting, self.counters)
        self._config = config or Turns()
        self._mixer = ChannelMixer(lambda sentence: warn(f"stream {stream_id}: {sentence}"))
        self._rate = 0
        self._resampler: Any = None
        self._position = 0  # of the next sample out
        self._expected = 0.0  # position at which the next chunk begins
        self._left_out = 0  # malformed chunks, and those lost before them, since the last good one
        self._begins: deque[tuple[float, int]] = deque()  # (position, sequence) of the last chunks
        self._anchor: tuple[int, int] | None = None  # (position, stamp)
        self._zeros = 0.0
        self._said: set[str] = set()

    @property
    def next_sequence(self) -> int:
        """Number of the chunk that comes after all that came."""
        return self._orderer.next_sequence

    def has_had(self, sequence: int) -> bool:
        """Whether a chunk of this number came, as far as is known; not so one that was given up."""
        return self._orderer.has_had(sequence)

    @property
    def is_muted(self) -> bool:
        """Whether there has been nothing but zeros for long."""
        return self._zeros >= DEAD_AFTER

    @property
    def end(self) -> int | None:
        """Time at the source just after the newest sample [ns]; None before the first one."""
        return None if self._anchor is None else self.stamp_at(round(self._expected))

    def stamp_at(self, position: int) -> int:
        """Time at the source [ns] of the sample at ``position``."""
        if self._anchor is None:
            raise ValueError(f"stream {self.stream_id}: no chunk has been received yet, so no sample has a time")
        at, stamp = self._anchor
        return stamp + round((position - at) * NANOSECONDS / SAMPLE_RATE)

    def sequence_at(self, position: int) -> int:
        """Number of the chunk that the sample at ``position`` came from."""
        if not self._begins:
            raise ValueError(f"stream {self.stream_id}: no chunk has been received yet, so no sample is from one")
        # Half a sample of tolerance: a chunk may begin between two samples at 16 kHz.
        index = bisect_right(self._begins, position + 0.5, key=lambda begin: begin[0])
        return self._begins[max(index - 1, 0)][1]

    def push(self, chunk: AudioChunk) -> Iterator[Run]:
        """Take a chunk, in any order; yield what can be given on."""
        for lost, ordered in self._orderer.push(chunk):
            yield from self._take(lost, ordered)
        if self.counters.duplicate >= MANY_DUPLICATES:
            self._warn_once(
                "duplicate",
                f"stream {self.stream_id}: {MANY_DUPLICATES} chunks had numbers that were there before and were left "
                "out; do two sources publish under one stream_id?",
            )

    def flush(self) -> Iterator[Run]:
        """Give on what still waits for missing chunks or in the resampler; afterwards the stream is over."""
        for lost, ordered in self._orderer.flush():
            yield from self._take(lost, ordered)
        yield from self._drain()

    def _take(self, lost: int, chunk: AudioChunk) -> Iterator[Run]:
        lost += self._left_out
        samples = self._mono(chunk)
        if samples is None:
            self._left_out = lost + 1
            return
        self._left_out = 0
        gap = self._follow_clock(lost, chunk, len(samples))
        if gap > 0.0 or chunk.sample_rate != self._rate:
            yield from self._drain()
            self._rate = chunk.sample_rate
            self._position = round(self._expected)
        self._begins.append((self._expected, chunk.sequence))
        while self._begins[0][0] < self._expected - REMEMBERED * SAMPLE_RATE:
            self._begins.popleft()
        converted = self._resample(samples)
        self._expected += len(samples) * SAMPLE_RATE / chunk.sample_rate
        if len(converted) or gap > 0.0:
            yield Run(self._position, converted, gap)
        self._position += len(converted)

    def _follow_clock(self, lost: int, chunk: AudioChunk, frames: int) -> float:
        """Keep the map from sample to time; return the gap [s] before this chunk."""
        if self._anchor is None:
            # Whoever came late counts from the first chunk of the stream too, if all are as long as this one.
            self._position = round(chunk.sequence * frames * SAMPLE_RATE / chunk.sample_rate)
            self._expected = float(self._position)
            self._anchor = (self._position, chunk.stamp)
            return 0.0
        if frames == 0:
            return 0.0  # the end of a stream: there is no first sample that the stamp could be the time of
        deviation = (chunk.stamp - self.stamp_at(round(self._expected))) / NANOSECONDS
        gap = 0.0
        if lost:
            # The stamps know how much is missing; if they are of no use, assume chunks of this one's length.
            length = frames / chunk.sample_rate
            gap = deviation if 0.5 * lost * length <= deviation <= 2.0 * lost * length else lost * length
            self._expected += gap * SAMPLE_RATE
            self._warn_once(
                "lost", f"stream {self.stream_id}: {counted(lost, 'chunk')} lost before number {chunk.sequence}"
            )
            deviation -= gap
        at = round(self._expected)
        if abs(deviation) > CLOCK_JUMP:
            self.counters.clock_jumps += 1
            self._anchor = (at, chunk.stamp)
            self._warn_once("jump", f"stream {self.stream_id}: the source's clock jumped by {deviation:+.3f} s")
        else:
            self._anchor = (at, self.stamp_at(at) + round(CLOCK_GAIN * deviation * NANOSECONDS))
        return gap

    def _mono(self, chunk: AudioChunk) -> FloatArray | None:
        samples = chunk.samples
        if samples.ndim != 2 or chunk.sample_rate < 4000 or samples.shape[1] == 0:
            self._warn_once(
                "format",
                f"stream {self.stream_id}: chunk {chunk.sequence} has shape {samples.shape} at {chunk.sample_rate} Hz; "
                "expected interleaved samples of at least one channel at 4000 Hz or more; it was left out",
            )
            return None
        finite = np.isfinite(samples)
        if not finite.all():
            bad = int(samples.size - np.count_nonzero(finite))
            self.counters.not_finite += bad
            samples = np.where(finite, samples, np.float32(0.0))
            self._warn_once("nan", f"stream {self.stream_id}: {bad} samples were NaN or infinite and became silence")
        mono = self._mixer.mix(samples, chunk.sample_rate, self._config.channel)
        if mono.size and not mono.any():
            before = self._zeros
            self._zeros += len(mono) / chunk.sample_rate
            if before < DEAD_AFTER <= self._zeros:
                self._warn(
                    f"stream {self.stream_id}: every sample has been 0 for {DEAD_AFTER:g} s; "
                    "is the microphone muted or the wrong device or channel chosen?"
                )
        elif mono.size:
            self._zeros = 0.0
        return np.clip(mono, -1.0, 1.0).astype(np.float32, copy=False)

    def _resample(self, samples: FloatArray) -> FloatArray:
        if self._rate == SAMPLE_RATE:
            return samples
        import soxr

        if self._resampler is None:
            self._resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
        converted: FloatArray = self._resampler.resample_chunk(samples)
        return converted

    def _drain(self) -> Iterator[Run]:
        """Give on the last 15 to 50 ms, which the resampler's filter holds back, before the sound breaks off."""
        if self._resampler is not None:
            converted = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            self._resampler = None
            if len(converted):
                yield Run(self._position, converted, 0.0)
            self._position += len(converted)

    def _warn_once(self, kind: str, sentence: str) -> None:
        """One line per kind and stream: the counters carry the rest."""
        if kind not in self._said:
            self._said.add(kind)
            self._warn(sentence + " (further cases are counted in the diagnostics)")
