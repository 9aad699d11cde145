"""Samples → utterances: where someone starts and stops speaking.

A detector judges frames of 10 ms; a window with hysteresis turns its flicker into speech and pauses; the level of the
sound then places start and end, since detectors hold on for up to 100 ms after speech.

An utterance is known before it is over: once the first silent frames have placed its end, all that is missing is the
rest of the hang-over. It is given out then already (not final), for whoever can use the pause.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synctva_ros.audio.segmentation import Segmenter
from synctva_ros.audio.stream import Run, SampleStream, StreamCounters
from synctva_ros.audio.vad import DETECTORS, FRAME, Foreground, HighPass, VoiceDetector
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy, FloatArray, Utterance

FRAME_SECONDS = FRAME / SAMPLE_RATE
WINDOW = 10  # frames over which the share of voiced ones is taken
# Speech starts and ends where its level comes this close to its loudest frame [dB], and above the noise.
EDGE_BELOW_PEAK = 40.0
EDGE_SEARCH = 20  # frames around the first and the last voiced one in which the level may place start and end
APART = 10  # frames: what is loud again later than this is something else
VAD_HOLD = 10  # frames: the hang-over counts from the end of speech, at most this much before the detector's
PAUSE_AFTER = 5  # frames without voice before which a pause is not believed
SHORTEST_TURN = 40  # frames of a turn after which somebody else can be told from a wavering voice
ALONE = 0.6  # probability from which somebody else begins, where it is highest ...
CERTAIN = 10  # ... in so many frames
POSSIBLE = 0.1  # the same where the voices before and after are compared
COMPARED = 300  # frames before a change that are compared with what came after
AFTER = 60  # frames of speech after which it is: a turn is hardly ever shorter, and a piece of a voice tells nothing
FRONT = 0.3  # mean probability of somebody in front below which an utterance is not given out
TAIL = 15  # frames of silence given along after the end of speech, as far as the hang-over lets them be heard
SPLIT_SEARCH = 2.0  # [s] an utterance that is too long is cut at the quietest place of its last seconds
PLAYED_AGAIN = 5  # chunks, one after the other, that were there before: no duplicates, the recording is played again
REMEMBERED_STREAMS = 8  # that are over
FULL_SCALE = 0.99  # amplitude from which a sample counts as clipped
MAX_CLIPPED = 0.01  # share of clipped samples from which the utterance is called clipped


@dataclass
class EndpointerCounters:
    """What was found so far, for diagnostics."""

    utterances: int = 0
    split: int = 0
    too_short: int = 0
    behind: int = 0
    same_voice: int = 0
    clipped: int = 0
    gated_seconds: float = 0.0


@dataclass
class _Frame:
    position: int
    samples: FloatArray
    voiced: bool
    level: float  # [dB], full scale is 0
    front: float = math.nan  # these are known later, see Activity
    overlap: float = math.nan
    change: float = math.nan


class Endpointer:
    """Cuts one stream of chunks after the other into utterances, final ones and such that are not over.

    What is not over says in ``ended_by`` what it is: ``SPEAKING``, what has been said so far, every
    ``provisional_interval`` while someone speaks; ``PAUSE``, with ``speculate``, what the utterance will be if the
    pause that has begun holds. If it does, or the stream ends in it, the final utterance has the same sound, times and
    id; if not, other partial ones with the same id follow.

    Args:
        config: times and thresholds; they may be changed at any time.
        warn: called with one sentence for what a person should know.
        segmenter: hears where somebody else begins, and who is not in front; None: only pauses end an utterance.
        is_another: whether of two pieces of sound ``[n]`` at 16 kHz, one after the other, the second is another
            person's; asked, with the segmenter's probability, where it hears that somebody else may have begun. None:
            the segmenter alone is believed.

    """

    def __init__(
        self,
        config: Turns | None = None,
        warn: Callable[[str], None] = lambda sentence: None,
        segmenter: Segmenter | None = None,
        is_another: Callable[[FloatArray, FloatArray, float], bool] | None = None,
    ) -> None:
        self.config = config or Turns()
        self.counters = EndpointerCounters()
        self._warn = warn
        self._detector: VoiceDetector = DETECTORS[self.config.detector](self.config)
        self._segmenter = segmenter
        self._is_another = is_another
        self._gate: tuple[int, int | None] | None = None  # (from, to) [ns]
        self._stream: SampleStream | None = None
        self._count = 0  # of all streams: a stream that is taken up again must not use an id again
        self._ended: OrderedDict[str, int] = OrderedDict()  # streams that are over, and the number of the next chunk
        self._again: dict[str, list[AudioChunk]] = {}  # by stream: the newest that were there before, in a row
        self._mixed = False
        self._listen_anew()
        self._clear()

    @property
    def stream_counters(self) -> StreamCounters:
        """What happened to the chunks of the current stream."""
        return self._stream.counters if self._stream else StreamCounters()

    @property
    def is_muted(self) -> bool:
        """Whether there has been nothing but zeros for long."""
        return self._stream is not None and self._stream.is_muted

    @property
    def speaking(self) -> bool:
        """Whether someone is speaking."""
        return self._start is not None

    def push(self, chunk: AudioChunk) -> list[Utterance]:
        """Take a chunk; return the utterances that ended with it, and what it tells of one that has not.

        A new ``stream_id`` ends the stream before, and so does a stream that begins anew (a recording played again).
        """
        found: list[Utterance] = []
        was_there = self._was_there(chunk)
        again = self._again.pop(chunk.stream_id, [])
        if was_there:
            again = [*again, chunk] if again and again[-1].sequence + 1 == chunk.sequence else [chunk]
            if len(again) >= PLAYED_AGAIN or (chunk.end_of_stream and again[0].sequence == 0):
                self._over(found)
                self._ended.pop(chunk.stream_id, None)
                return found + [utterance for each in again for utterance in self._take(each)]
            self._again[chunk.stream_id] = again
        if chunk.stream_id in self._ended:
            if not was_there and not self._mixed:
                self._mixed = True
                self._warn(f"stream {chunk.stream_id} goes on after its end; do two sources publish on one topic?")
            return found
        return self._take(chunk)

    def _was_there(self, chunk: AudioChunk) -> bool:
        """Whether a chunk with its number came before."""
        if self._stream is not None and self._stream.stream_id == chunk.stream_id:
            return self._stream.has_had(chunk.sequence)
        return chunk.sequence < self._ended.get(chunk.stream_id, 0)

    def _take(self, chunk: AudioChunk) -> list[Utterance]:
        """Take a chunk of the present stream, or the first one of another."""
        found: list[Utterance] = []
        if self._stream is None or self._stream.stream_id != chunk.stream_id:
            self._over(found)
            self._stream = SampleStream(chunk.stream_id, self._warn, chunk.frame_id, config=self.config)
            self._listen_anew()  # detectors adapt to the noise: what came before must not matter
            if self._gate is not None:  # its times were those of another stream's clock
                self._gate = (chunk.stamp, None) if self._gate[1] is None else None
        for run in self._stream.push(chunk):
            found += self._feed(run)
        if chunk.end_of_stream:
            self._over(found)
        return found

    def _over(self, found: list[Utterance]) -> None:
        """End the present stream, for good."""
        if self._stream is not None:
            self._ended[self._stream.stream_id] = self._stream.next_sequence
            while len(self._ended) > REMEMBERED_STREAMS:
                self._ended.popitem(last=False)
            found += self.flush()

    def flush(self) -> list[Utterance]:
        """End the utterance that is being spoken and forget the stream, which may go on later."""
        found: list[Utterance] = []
        if self._stream is not None:
            for run in self._stream.flush():
                found += self._feed(run)
            found += self._end(EndedBy.END_OF_STREAM)
        self._clear()
        self._stream = None
        return found

    def set_gate(self, closed: bool, stamp: int) -> None:
        """Ignore sound from ``stamp`` [ns] on (the robot itself speaks), until opened and ``gate_release`` later."""
        if closed:
            still_closed = self._gate is not None and (self._gate[1] is None or stamp < self._gate[1])
            self._gate = (self._gate[0] if still_closed and self._gate else stamp, None)
        elif self._gate is not None and self._gate[1] is None:
            self._gate = (self._gate[0], stamp + round(self.config.gate_release * NANOSECONDS))

    # --- from samples to frames

    def _listen_anew(self) -> None:
        self._detector.reset()
        self._high_pass = HighPass()
        self._foreground = Foreground()
        self._unjudged: deque[_Frame] = deque()  # frames that the segmenter has not judged yet
        if self._segmenter is not None:
            self._segmenter.reset()

    def _clear(self) -> None:
        self._rest: FloatArray = np.zeros((0, 2), np.float32)  # as it came, and without hum and offset
        self._rest_position = 0
        self._window: deque[bool] = deque(maxlen=WINDOW)
        self._frames: list[_Frame] = []
        self._start: int | None = None  # index in _frames of the first frame of speech
        self._continues = False  # whether that is the rest of an utterance that was split
        self._takes_over = False  # whether somebody else spoke until then
        self._last_voiced = 0
        self._candidate: Utterance | None = None  # what the utterance is if nothing more is said
        self._paused: tuple[int, Utterance] | None = None  # the newest candidate, and the frame where its speech ends
        self._told = 0  # frames of speech at the last partial utterance

    def _feed(self, run: Run) -> list[Utterance]:
        """Cut a run into frames, after silence for a short gap; a long one ends the utterance."""
        found: list[Utterance] = []
        samples, position = run.samples, run.position
        if run.gap > self.config.max_gap:
            found += self._end(EndedBy.GAP)
            self._clear()
        elif run.gap > 0.0:
            at = self._rest_position + len(self._rest)
            samples = np.concatenate([np.zeros(max(position - at, 0), np.float32), samples])
            position = at
        if not len(self._rest):
            self._rest_position = position
        both = np.stack([samples, self._high_pass(samples)], axis=1)
        buffer = np.concatenate([self._rest, both]) if len(self._rest) else both
        whole = len(buffer) - len(buffer) % FRAME
        for offset in range(0, whole, FRAME):
            found += self._frame(buffer[offset : offset + FRAME], self._rest_position + offset)
        self._rest = buffer[whole:].copy()
        self._rest_position += whole
        return found

    def _frame(self, samples: FloatArray, position: int) -> list[Utterance]:
        if self._is_gated(position):
            self.counters.gated_seconds += FRAME_SECONDS
            found = self._end(EndedBy.GATED)
            self._window.clear()
            self._frames.clear()
            return found
        power = float(np.mean(np.square(samples[:, 1], dtype=np.float64)))
        is_voice = self._detector(samples[:, 1]) and power >= self.config.min_level**2
        voiced = self._foreground(power, is_voice) and is_voice
        level = 10.0 * float(np.log10(max(power, 1e-12)))
        self._window.append(voiced)
        self._frames.append(frame := _Frame(position, samples[:, 0], voiced, level))
        cut = self._judge(frame, samples[:, 1])
        ratio = sum(self._window) / WINDOW
        if self._start is None:
            return self._idle(ratio)
        return cut + self._speech(ratio, voiced)

    def _judge(self, frame: _Frame, samples: FloatArray) -> list[Utterance]:
        """What the segmenter has to say of earlier frames: the utterance that somebody else has ended."""
        if self._segmenter is None:
            return []
        self._unjudged.append(frame)
        activity = self._segmenter.push(samples)
        judged = [self._unjudged.popleft() for _ in range(len(activity))]
        for each, *said in zip(judged, activity.front, activity.overlap, activity.change, strict=True):
            each.front, each.overlap, each.change = map(float, said)
        if not judged or self._start is None:
            return []
        return self._cut_at(self._change())

    def _change(self) -> int | None:
        """Index of the frame in which somebody else begins, if that is certain by now."""
        assert self._start is not None
        first = self._start + SHORTEST_TURN
        said = np.array([frame.change for frame in self._frames[first:]])
        said = said[: len(said) - int(np.isnan(said).sum())]
        needed = ALONE if self._is_another is None else POSSIBLE
        if len(said) <= CERTAIN or said[:-CERTAIN].max() < needed:
            return None
        at = int(np.argmax(said[:-CERTAIN] >= needed))
        change = first + at + int(np.argmax(said[at : at + CERTAIN]))
        if self._is_another is None:
            return change
        if self._last_voiced - change < AFTER:
            return None
        before, after = (
            np.concatenate([frame.samples for frame in frames])
            for frames in (self._frames[max(self._start, change - COMPARED) : change], self._frames[change:])
        )
        if self._is_another(before, after, self._frames[change].change):
            return change
        self.counters.same_voice += 1
        for frame in self._frames[first + at : first + at + 2 * CERTAIN]:
            frame.change = 0.0
        return None

    def _cut_at(self, at: int | None) -> list[Utterance]:
        """End the utterance before a frame, where somebody else begins."""
        if at is None:
            return []
        assert self._start is not None
        last = max((i for i in range(self._start, at) if self._frames[i].voiced), default=self._start)
        found: list[Utterance] = []
        if self._paused is not None and self._paused[0] <= at and last - self._paused[0] < APART:
            end, utterance = self._paused
            found = [self._counted(replace(utterance, ended_by=EndedBy.SPEAKER))]
        else:
            end = at if at - last <= APART else last + 1
            start = self._edges()[0]
            if (end - start) * FRAME_SECONDS >= self.config.min_duration:
                utterance = self._utterance(start, end, min(end + TAIL, at), EndedBy.SPEAKER)
                found = [self._counted(utterance)]
            else:
                self.counters.too_short += 1
        gone = max(end, at - round(self.config.pre_roll / FRAME_SECONDS))
        del self._frames[:gone]
        self._start = at - gone
        self._last_voiced = max(self._last_voiced - gone, self._start)
        self._candidate = self._paused = None
        self._continues, self._takes_over = False, True
        self._told = 0
        return found

    def _is_gated(self, position: int) -> bool:
        if self._gate is None or self._stream is None:
            return False
        stamp = self._stream.stamp_at(position)
        return self._gate[0] <= stamp and (self._gate[1] is None or stamp < self._gate[1])

    # --- from frames to utterances

    def _idle(self, ratio: float) -> list[Utterance]:
        if ratio >= self.config.start_ratio:
            first = len(self._frames) - len(self._window)
            self._start = first + self._window.index(True)
            self._last_voiced = len(self._frames) - 1
            self._told = 0
        else:
            keep = round(self.config.pre_roll / FRAME_SECONDS) + WINDOW + EDGE_SEARCH
            del self._frames[:-keep]
        return []

    def _speech(self, ratio: float, voiced: bool) -> list[Utterance]:
        assert self._start is not None
        if voiced and ratio >= self.config.stop_ratio:
            self._last_voiced = len(self._frames) - 1
            self._candidate = None
        found: list[Utterance] = []
        quiet = len(self._frames) - 1 - self._last_voiced
        if quiet:
            if quiet < PAUSE_AFTER:
                return []
            start, end = self._edges()
            silence = len(self._frames) - max(end, self._last_voiced + 1 - VAD_HOLD)
            over = silence * FRAME_SECONDS >= self.config.hangover
            if self._candidate is None and self._is_long_enough() and (over or len(self._frames) - end >= TAIL):
                self._candidate = self._utterance(start, end, min(end + TAIL, len(self._frames)), EndedBy.PAUSE)
                self._paused = end, self._candidate
                if self.config.speculate:
                    found.append(replace(self._candidate, is_final=False))
            return found + self._end(EndedBy.PAUSE) if over else found
        said = len(self._frames) - self._start
        if (last := self._last_in_front()) is not None:
            self._last_voiced = last
            return self._end(EndedBy.PAUSE)
        if said * FRAME_SECONDS >= self.config.max_duration:
            return self._split()
        if 0 < self.config.provisional_interval <= (said - self._told) * FRAME_SECONDS and self._is_long_enough():
            self._told = said
            now = len(self._frames)
            so_far = self._utterance(self._edges()[0], now, now, EndedBy.SPEAKING)
            found.append(replace(so_far, is_final=False))
        return found

    def _last_in_front(self) -> int | None:
        """The last frame of somebody in front, if others have talked on behind for as long as a pause lasts."""
        assert self._start is not None
        front = np.array([frame.front for frame in self._frames[self._start :]])
        front = front[: len(front) - int(np.isnan(front).sum())]
        pause = round(self.config.hangover / FRAME_SECONDS)
        if len(front) <= pause or front[-pause:].max() >= FRONT:
            return None
        there = np.flatnonzero(front >= FRONT)
        return self._start + (int(there[-1]) if len(there) else 0)

    def _split(self) -> list[Utterance]:
        assert self._start is not None
        span = min(round(SPLIT_SEARCH / FRAME_SECONDS), (len(self._frames) - self._start) // 2)
        levels = np.array([frame.level for frame in self._frames[-span:]])
        smooth = np.convolve(levels, np.ones(5) / 5, mode="same")[2:-2]
        cut = len(self._frames) - span + 2 + int(np.argmin(smooth))
        self.counters.split += 1
        utterance = self._utterance(min(self._edges()[0], cut - 1), cut, cut, EndedBy.SPLIT)
        del self._frames[:cut]
        self._start = 0
        self._continues, self._takes_over = True, False
        self._last_voiced = max(self._last_voiced - cut, 0)
        self._candidate = self._paused = None
        self._told = 0
        return [self._counted(utterance)]

    def _end(self, why: EndedBy) -> list[Utterance]:
        """End the utterance that is being spoken, if there is one and it is long enough."""
        if self._start is None:
            return []
        start, end = self._edges()
        found: list[Utterance] = []
        if self._is_behind(start, end):
            self.counters.behind += 1
        elif self._is_long_enough():
            tail = min(end + TAIL, len(self._frames))
            utterance = self._candidate or self._utterance(start, end, tail, why)
            found.append(self._counted(replace(utterance, ended_by=why)))
        else:
            self.counters.too_short += 1
        keep = round(self.config.pre_roll / FRAME_SECONDS) + WINDOW + EDGE_SEARCH
        del self._frames[: max(len(self._frames) - keep, end)]
        self._start = None
        self._continues = self._takes_over = False
        self._candidate = self._paused = None
        self._window.clear()
        return found

    def _is_long_enough(self) -> bool:
        """Whether what was heard so far is an utterance; from then on it is, whatever follows."""
        voiced = sum(frame.voiced for frame in self._frames[self._start : self._last_voiced + 1]) * FRAME_SECONDS
        # What a split left over belongs to something longer, however short it is.
        return voiced >= (FRAME_SECONDS if self._continues else self.config.min_duration)

    def _is_behind(self, start: int, end: int) -> bool:
        """Whether the segmenter hears nobody in front in all that it has judged of an utterance."""
        said = [frame.front for frame in self._frames[start:end] if not math.isnan(frame.front)]
        return len(said) >= (end - start) / 2 and float(np.mean(said)) < FRONT

    def _counted(self, utterance: Utterance) -> Utterance:
        """Take note of an utterance that is given out for good; the next one gets another id."""
        self._count += 1
        self.counters.utterances += 1
        self.counters.clipped += utterance.clipped
        if utterance.clipped:
            self._warn(f"utterance {utterance.utterance_id} is clipped: turn the microphone's gain down")
        return utterance

    def _edges(self) -> tuple[int, int]:
        """First frame of speech and the one after the last, placed by the level of the sound."""
        assert self._start is not None
        levels = np.array([frame.level for frame in self._frames])
        peak = float(levels[self._start : self._last_voiced + 1].max())
        edge = self._foreground.edge(levels[self._last_voiced + 1 :])
        threshold = min(max(peak - EDGE_BELOW_PEAK, edge), peak)
        loud = levels >= threshold
        speech = loud[self._start : self._last_voiced + 1]
        start = self._start + int(np.argmax(speech))
        end = (
            self._last_voiced + 1 - int(np.argmax(speech[::-1][:EDGE_SEARCH]))
            if speech.any()
            else self._last_voiced + 1
        )
        # A detector also comes late and goes early: what is as loud and not apart belongs to it.
        if self._continues:
            start = 0
        elif not self._takes_over:
            start -= _reach(loud[max(start - EDGE_SEARCH, 0) : start][::-1])
        return start, end + _reach(loud[end : self._last_voiced + 1 + EDGE_SEARCH])

    def _overlap(self, start: int, end: int) -> float:
        """Share of the frames in which somebody else speaks too."""
        return float(np.mean([frame.overlap >= 0.5 for frame in self._frames[start:end]]))

    def _utterance(self, start: int, end: int, tail: int, why: EndedBy) -> Utterance:
        assert self._stream is not None
        first = max(start - round(self.config.pre_roll / FRAME_SECONDS), 0)
        frames = self._frames[first:tail]
        speech = np.concatenate([frame.samples for frame in self._frames[start:end]])
        at, until = self._frames[start].position, self._frames[end - 1].position + FRAME
        return Utterance(
            utterance_id=f"{self._stream.stream_id}_{self._count}",
            stream_id=self._stream.stream_id,
            first_sequence=self._stream.sequence_at(frames[0].position),
            last_sequence=self._stream.sequence_at(frames[-1].position + FRAME - 1),
            start=self._stream.stamp_at(at),
            end=self._stream.stamp_at(until),
            stream_start=at / SAMPLE_RATE,
            stream_end=until / SAMPLE_RATE,
            ended_by=why,
            samples_start=self._stream.stamp_at(frames[0].position),
            sample_rate=SAMPLE_RATE,
            samples=np.concatenate([frame.samples for frame in frames]),
            rms=float(np.sqrt(np.mean(np.square(speech, dtype=np.float64)))),
            clipped=bool(np.mean(np.abs(speech) >= FULL_SCALE) > MAX_CLIPPED),
            speaker_id=self.config.speaker_id,
            overlap=self._overlap(start, end),
            frame_id=self._stream.frame_id,
        )


def _reach(loud: NDArray[np.bool_]) -> int:
    """How many frames from the first one on belong together: those before a pause."""
    reach = 0
    for frame in np.flatnonzero(loud).tolist():
        if frame - reach >= APART:
            break
        reach = frame + 1
    return reach
