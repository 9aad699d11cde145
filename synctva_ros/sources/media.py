"""A media file, decoded with PyAV (FFmpeg): its sound as chunks and its images, in the order of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import NANOSECONDS, AudioChunk, FloatArray, Image
from synctva_ros.sources import new_stream_id
from synctva_ros.sources.microphone import SourceError

#: A frame that comes this much later than the samples before it end is behind a hole in the file [ns].
JUMP = NANOSECONDS // 10
#: A file that ends this much before the length that it announces is not whole [s].
MISSING = 1.0
#: FFmpeg takes plain text and arbitrary bytes for pictures of a terminal.
NOT_VIDEO = ("ansi", "bintext", "idf", "xbin")


class MediaFile:
    """What can be played of a file.

    Args:
        path: any file that FFmpeg reads.
        chunk: length of a chunk of sound [s].
        video_rate: images per second at the most [Hz]; 0 leaves the images out.
        warn: called with one sentence when a part cannot be played.
        frame_id: for the headers.

    Raises:
        SourceError: there is no such file, it is no media file, or it has neither sound nor video.

    """

    def __init__(
        self,
        path: str | Path,
        chunk: float = 0.03,
        video_rate: float = 10.0,
        warn: Callable[[str], object] = print,
        frame_id: str = "media",
    ) -> None:
        import av

        self.path = Path(path).expanduser()
        self.stream_id = new_stream_id("f")
        self._chunk = chunk
        self._video_rate = video_rate
        self._warn = warn
        self._frame_id = frame_id
        self._reached = 0  # up to which time the file has been decoded [ns]
        self._damage_said = False
        if not self.path.is_file():
            raise SourceError(f"{self.path}: " + ("is not a file" if self.path.exists() else "there is no such file"))
        try:
            with av.open(str(self.path)) as container:
                # Streams of a container need not begin at 0, nor together: its own start is the file's zero.
                self._start = (container.start_time or 0) / av.time_base
                self.duration = None if container.duration is None else container.duration / av.time_base
                self.has_audio = bool(container.streams.audio)
                # The cover picture of a song is a video stream too.
                self._video_index = next(
                    (
                        index
                        for index, stream in enumerate(container.streams.video)
                        if not stream.disposition & av.stream.Disposition.attached_pic
                        and stream.codec_context.name not in NOT_VIDEO
                    ),
                    -1,
                )
                self.has_video = self._video_index >= 0
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.path}: cannot be read as a media file ({getattr(error, 'strerror', None) or error}); "
                "play it with ffplay to see whether it is whole"
            ) from error
        if not self.has_audio and not self.has_video:
            raise SourceError(f"{self.path}: there is neither sound nor video in it")
        if not self.has_audio:
            self._warn(f"{self.path}: there is no sound in it, so no utterance will be found")

    def play(self, origin: int) -> Iterator[AudioChunk | Image]:
        """Yield chunks and images in the order of their stamps; ``origin`` [ns] is the time of the file's start.

        Each time it is a stream of its own, with a new ``stream_id``. The last item is an empty chunk with
        ``end_of_stream`` if there was sound. A damaged file ends early, with a warning.
        """
        self.stream_id = new_stream_id("f")
        self._reached, self._damage_said = 0, False
        parts: list[Iterator[AudioChunk | Image]] = []
        if self.has_audio:
            parts.append(self._audio(origin))
        if self.has_video and self._video_rate > 0:
            parts.append(self._video(origin))
        last: AudioChunk | None = None
        for item in heapq.merge(*parts, key=lambda item: item.stamp):
            if isinstance(item, AudioChunk) and item.end_of_stream:
                last = item  # images may come after the sound
            else:
                yield item
        everything = self._video_rate > 0 or not self.has_video  # else the images may make up the rest
        missing = (self.duration or 0.0) - self._reached / NANOSECONDS
        if everything and missing > MISSING and not self._damage_said:
            self._warn(
                f"{self.path}: it ends {missing:.1f} s before the length of {self.duration:.1f} s that it announces; "
                "the file seems to be cut off"
            )
        if last is not None:
            yield last

    def _audio(self, origin: int) -> Iterator[AudioChunk]:
        import av

        sequence, rate, channels, stamp = 0, 16_000, 1, origin
        pending: list[FloatArray] = []
        try:
            with av.open(str(self.path)) as container:
                resampler = av.AudioResampler(format="flt")  # packed float32; rate and layout stay
                for frame in container.decode(container.streams.audio[0]):
                    at = origin + round(((frame.time or 0.0) - self._start) * NANOSECONDS)
                    waiting = sum(map(len, pending))
                    if sequence + waiting == 0:
                        stamp = at
                    elif at - stamp - round(waiting * NANOSECONDS / rate) > JUMP:
                        # The file leaves time out here: what came before it keeps its own stamp.
                        if waiting:
                            yield self._chunk_of(sequence, stamp, rate, np.concatenate(pending))
                            sequence += 1
                            pending = []
                        stamp = at
                    for converted in resampler.resample(frame):
                        rate, channels = converted.sample_rate, converted.layout.nb_channels
                        pending.append(cast(FloatArray, converted.to_ndarray()).reshape(-1, channels))
                    length = max(round(self._chunk * rate), 1)
                    samples = np.concatenate(pending) if pending else np.zeros((0, channels), np.float32)
                    whole = len(samples) - len(samples) % length
                    for first in range(0, whole, length):
                        yield self._chunk_of(sequence, stamp, rate, samples[first : first + length])
                        sequence += 1
                        stamp += round(length * NANOSECONDS / rate)
                    pending = [samples[whole:]]
                    self._reached = max(self._reached, stamp - origin)
        except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: another format midway
            self._damaged("sound", stamp - origin, error)
        samples = np.concatenate(pending) if pending else np.zeros((0, channels), np.float32)
        if len(samples):
            yield self._chunk_of(sequence, stamp, rate, samples)
            sequence += 1
            stamp += round(len(samples) * NANOSECONDS / rate)
        nothing = np.zeros((0, channels), np.float32)
        yield self._chunk_of(sequence, stamp, rate, nothing, end=True)

    def _chunk_of(self, sequence: int, stamp: int, rate: int, samples: FloatArray, end: bool = False) -> AudioChunk:
        return AudioChunk(self.stream_id, sequence, stamp, rate, samples, end, self._frame_id)

    def _video(self, origin: int) -> Iterator[Image]:
        import av

        due: float | None = None
        time = 0.0
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[self._video_index]
                stream.thread_type = "NONE"  # decoding threads would take the cores from the models
                for frame in container.decode(stream):
                    time = (frame.time or 0.0) - self._start
                    self._reached = max(self._reached, round(time * NANOSECONDS))
                    if due is not None and time + 1e-3 < due:
                        continue
                    due = max((time if due is None else due) + 1.0 / self._video_rate, time)
                    image = cast(NDArray[np.uint8], frame.to_ndarray(format="bgr24"))
                    if frame.rotation % 360:
                        image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
                    yield Image(origin + round(time * NANOSECONDS), image, self._frame_id)
        except (av.error.FFmpegError, OSError) as error:
            self._damaged("video", round(time * NANOSECONDS), error)

    def _damaged(self, what: str, position: int, error: Exception) -> None:
        self._damage_said = True
        reason = getattr(error, "strerror", None) or error
        self._warn(f"{self.path}: the {what} is damaged after {position / NANOSECONDS:.1f} s ({reason}); it ends there")
