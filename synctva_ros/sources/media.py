"""A media file, decoded with PyAV (FFmpeg): its sound as chunks and its images, in the order of time."""

from __future__ import annotations

import heapq
import io
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import NANOSECONDS, AudioChunk, FloatArray, Image, ImageArray
from synctva_ros.sources import new_stream_id
from synctva_ros.sources.files import shown
from synctva_ros.sources.microphone import SourceError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.frame import VideoFrame

Kind = Literal["audio", "video"]

#: Sound that comes this much later than what is before it ends is behind a hole in the file [ns] ...
HOLE = NANOSECONDS // 10
#: ... behind a damaged piece already from here on, as then there surely is one [ns].
HOLE_BEHIND_DAMAGE = NANOSECONDS // 1000
#: A hole up to this long is filled with silence, as a player does [ns]; behind a longer one chunks are missing.
FILLED = 2 * NANOSECONDS
#: Times that go back by more than this start anew: files were joined [s].
BACK = 0.5
#: In a transport stream, so do times that leap ahead by more than this [s]; FFmpeg takes the same.
LEAP = 10.0
#: A file that ends this much before the length that it announces is not whole [s].
MISSING = 1.0
#: FFmpeg takes plain text and arbitrary bytes for images of a terminal.
NOT_VIDEO = ("ansi", "bintext", "idf", "xbin")
#: Formats that do not announce their length: FFmpeg guesses it from the bit rate, or from the last time in the file.
NO_LENGTH = frozenset(
    ("aac", "ac3", "amr", "dts", "eac3", "gif", "h264", "hevc", "loas", "m4v", "mp3", "mpeg", "mpegts", "mpegvideo")
)
#: A track that is marked as the default one wins over so many channels, or pixels, of another; as in FFmpeg.
DEFAULT_TRACK = 5_000_000
#: Pixels are no further from square than this; else the number is wrong.
MAX_ASPECT = 4.0


@dataclass
class _Damage:
    """What of one kind could not be decoded."""

    pieces: int = 0
    seconds: float = 0.0
    first: float = 0.0
    is_fresh: bool = False  # nothing has come since

    def add(self, at: float, seconds: float) -> None:
        """One more piece, which would have been at ``at`` [s]."""
        self.first = self.first if self.pieces else at
        self.pieces += 1
        self.seconds += seconds
        self.is_fresh = True


@dataclass
class _Clock:
    """The times of one stream's frames [s] from the start of the file, which go on where files were joined."""

    start: float
    may_leap: bool
    next: float = 0.0
    _offset: float = 0.0
    _is_anew: bool = False
    _begun: bool = False

    def join(self) -> None:
        """What comes now has times of its own and follows what was."""
        self._is_anew = self._begun

    def skip(self, seconds: float) -> None:
        """Something that the times do not count is missing here."""
        self._offset += seconds

    def at(self, time: float | None, duration: float) -> float:
        """When a frame is that says ``time``, or nothing, and lasts for ``duration``."""
        now = self.next if time is None else time - self.start + self._offset
        ahead = now - self.next
        if self._begun and (self._is_anew or ahead < -BACK or (self.may_leap and ahead > LEAP)):
            self._offset -= ahead
            now = self.next
        self._begun, self._is_anew = True, False
        self.next = now + duration
        return now


@dataclass
class _Chunks:
    """Cuts decoded sound into chunks of one length, each with the time of its first sample."""

    stream_id: str
    frame_id: str
    length: float
    stamp: int  # of the first sample that waits
    rate: int = 16_000
    channels: int = 1
    _sequence: int = 0
    _waiting: list[FloatArray] = field(default_factory=list)
    _begun: bool = False

    @property
    def end(self) -> int:
        """Time just after the last sample [ns]."""
        return self.stamp + round(sum(map(len, self._waiting)) * NANOSECONDS / self.rate)

    def put(self, at: int, rate: int, samples: FloatArray, hole_from: int) -> Iterator[AudioChunk]:
        """Take samples ``[n, channels]`` of the time ``at`` [ns]; if ``hole_from`` later [ns], sound is missing."""
        if (rate, samples.shape[1]) != (self.rate, self.channels):
            yield from self.rest()
            self.rate, self.channels = rate, samples.shape[1]
        hole = at - self.end
        if not self._begun:
            self.stamp = at
        elif hole_from < hole <= FILLED:
            self._waiting.append(np.zeros((round(hole * rate / NANOSECONDS), self.channels), np.float32))
        elif hole > FILLED:
            yield from self.rest()
            self._sequence += max(round(hole / NANOSECONDS / self.length), 1)
            self.stamp = at
        self._begun = True
        self._waiting.append(samples)
        whole = max(round(self.length * rate), 1)
        if sum(map(len, self._waiting)) < whole:
            return
        together = np.concatenate(self._waiting)
        for first in range(0, len(together) - whole + 1, whole):
            yield self._chunk(together[first : first + whole])
        self._waiting = [together[len(together) - len(together) % whole :]]

    def rest(self) -> Iterator[AudioChunk]:
        """What waits, as a shorter chunk."""
        together, self._waiting = self._waiting, []
        if sum(map(len, together)):
            yield self._chunk(np.concatenate(together))

    def last(self) -> AudioChunk:
        """The empty one that ends the stream."""
        return self._chunk(np.zeros((0, self.channels), np.float32), is_last=True)

    def _chunk(self, samples: FloatArray, is_last: bool = False) -> AudioChunk:
        chunk = AudioChunk(self.stream_id, self._sequence, self.stamp, self.rate, samples, is_last, self.frame_id)
        self._sequence += 1
        self.stamp += round(len(samples) * NANOSECONDS / self.rate)
        return chunk


class MediaFile:
    """What can be played of a file, as a player plays it.

    Args:
        path: any file that FFmpeg reads.
        chunk: length of a chunk of sound [s].
        video_rate: images per second at the most [Hz]; 0 leaves the images out.
        warn: called with one sentence when a part cannot be played.
        frame_id: for the headers.
        needs_sound: warn when there is none.

    Of several tracks FFmpeg's choice is taken: the one that is marked as the default, then the one with the most
    channels or pixels, then the first.

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
        *,
        needs_sound: bool = True,
    ) -> None:
        import av

        self.path = Path(path).expanduser()
        self.stream_id = new_stream_id("f")
        self._name = shown(self.path)
        self._chunk = chunk
        self._video_rate = video_rate
        self._warn = warn
        self._frame_id = frame_id
        self._reached = 0  # up to which time the file has been decoded [ns]
        self._cut_short = False
        if self.path.is_dir():
            raise SourceError(f"{self._name}: is a folder that cannot be read; see to its permissions")
        if not self.path.is_file():
            raise SourceError(f"{self._name}: " + ("is not a file" if self.path.exists() else "there is no such file"))
        try:
            with self._open() as container:
                # Streams of a container need not begin at 0, nor together: its own start is the file's zero.
                self._start = (container.start_time or 0) / av.time_base
                self._may_leap = container.format.name == "mpegts"
                self._is_told = not NO_LENGTH & set(container.format.name.split(","))
                #: What the file announces [s]; None when it does not.
                self.duration = container.duration / av.time_base if self._is_told and container.duration else None
                self._indices: dict[Kind, int] = {"audio": self._choose("audio", container)}
                self._indices["video"] = self._choose("video", container)
                # An Ogg file may be several, one behind the other: byte offsets at which they begin and end.
                self._parts = _ogg_links(self.path) if container.format.name == "ogg" else []
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self._name}: cannot be read as a media file ({getattr(error, 'strerror', None) or error}); "
                "play it with ffplay to see whether it is whole"
            ) from error
        if len(self._parts) > 1:
            self.duration = None
        self.has_audio, self.has_video = (self._indices[kind] >= 0 for kind in ("audio", "video"))
        if not self.has_audio and not self.has_video:
            raise SourceError(f"{self._name}: there is neither sound nor video in it")
        if not self.has_audio and needs_sound:
            self._warn(f"{self._name}: there is no sound in it, so no utterance will be found")

    def _open(self, part: tuple[int, int] | None = None) -> InputContainer:
        import av

        file: str | io.BytesIO = f"file:{self.path}"  # with its protocol, else a name with a colon is taken for one
        if part is not None:
            with self.path.open("rb") as whole:
                whole.seek(part[0])
                file = io.BytesIO(whole.read(part[1] - part[0]))
        return av.open(file, "r", metadata_errors="replace")  # tags in another encoding are no reason not to play

    def _choose(self, kind: Kind, container: InputContainer) -> int:
        """Index, among those of its kind, of the track that is played; -1 for none."""
        from av.stream import Disposition

        tracks: Sequence[Stream] = container.streams.audio if kind == "audio" else container.streams.video
        # The cover of a song is a video stream too; what FFmpeg has no decoder for has no codec.
        tracks = [track for track in tracks if not track.disposition & Disposition.attached_pic]
        usable = {}
        for track in tracks:
            codec: Any = track.codec_context
            if codec is not None and codec.name not in NOT_VIDEO:
                size = (codec.channels if codec.sample_rate else -1) if kind == "audio" else codec.width * codec.height
                usable[track.index] = size + DEFAULT_TRACK * bool(track.disposition & Disposition.default)
        what = "sound" if kind == "audio" else "video"
        if tracks and not usable and not any(track.codec_context for track in tracks):
            self._warn(f"{self._name}: FFmpeg has no decoder for its {what}; convert the file to another format")
        if not usable:
            return -1
        best = max(usable, key=lambda index: usable[index])
        if len(usable) > 1 and (kind == "audio" or self._video_rate > 0):
            number = [track.index for track in tracks].index(best) + 1
            self._warn(
                f"{self._name}: of its {len(tracks)} {what} tracks number {number} is taken; for another one make a "
                f"file with it alone (ffmpeg -map 0:{kind[0]}:N, which counts from 0)"
            )
        every = container.streams.audio if kind == "audio" else container.streams.video
        return [track.index for track in every].index(best)

    def play(self, origin: int) -> Iterator[AudioChunk | Image]:
        """Yield chunks and images in the order of their stamps; ``origin`` [ns] is the time of the file's start.

        Each time it is a stream of its own, with a new ``stream_id``. The last item is an empty chunk with
        ``end_of_stream`` if there was sound. What is damaged is left out, with a warning; for sound that is missing
        there is silence, or a gap in the numbers of the chunks if it is longer.
        """
        self.stream_id = new_stream_id("f")
        self._reached, self._cut_short = 0, False
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
        # In Matroska the length counts from 0, also where the first time is another.
        missing = (self.duration or 0.0) - self._reached / NANOSECONDS - max(self._start, 0.0)
        if everything and missing > MISSING and not self._cut_short:
            self._warn(
                f"{self._name}: it ends {missing:.1f} s before the length of {self.duration:.1f} s that it announces; "
                "the file seems to be cut off"
            )
        if last is not None:
            yield last

    def images(self, origin: int) -> Iterator[Image]:
        """Yield the images alone, as ``play`` does."""
        return self._video(origin) if self.has_video and self._video_rate > 0 else iter(())

    def _audio(self, origin: int) -> Iterator[AudioChunk]:
        clock, damage = _Clock(self._start, self._may_leap), _Damage()
        chunks = _Chunks(self.stream_id, self._frame_id, self._chunk, origin)
        for frame, _ in self._frames("audio", clock, damage):
            samples = samples_of(cast("AudioFrame", frame))
            at = origin + round(clock.at(frame.time, len(samples) / frame.sample_rate) * NANOSECONDS)
            hole_from = HOLE_BEHIND_DAMAGE if damage.is_fresh else HOLE
            damage.is_fresh = False
            yield from chunks.put(at, frame.sample_rate, samples, hole_from)
            self._reached = max(self._reached, chunks.end - origin)
        yield from chunks.rest()
        yield chunks.last()

    def _video(self, origin: int) -> Iterator[Image]:
        clock, damage = _Clock(self._start, self._may_leap), _Damage()
        due: float | None = None
        for frame, stream in self._frames("video", clock, damage):
            time = clock.at(frame.time, float(1 / (stream.average_rate or 25)))
            self._reached = max(self._reached, round(time * NANOSECONDS))
            if due is not None and time + 1e-3 < due:
                continue
            due = max((time if due is None else due) + 1.0 / self._video_rate, time)
            pixels = image_of(cast("VideoFrame", frame), stream.sample_aspect_ratio)
            yield Image(origin + round(time * NANOSECONDS), pixels, self._frame_id)

    def _frames(self, kind: Kind, clock: _Clock, damage: _Damage) -> Iterator[tuple[Any, Any]]:
        """The decoded frames of all parts, each with its stream; what is damaged is left out and said."""
        import av

        try:
            for part in self._parts if len(self._parts) > 1 else (None,):
                clock.join()
                with self._open(part) as container:
                    tracks: Sequence[Any] = container.streams.audio if kind == "audio" else container.streams.video
                    index = self._indices[kind]
                    if index >= len(tracks) or tracks[index].codec_context is None:
                        continue  # a later part may lack it
                    stream = tracks[index]
                    if kind == "video":
                        stream.thread_type = "NONE"  # decoding threads would take the cores from the models
                    for packet in self._packets(container, stream):
                        try:
                            frames = packet.decode()
                        except (av.error.FFmpegError, ValueError):
                            lost = float((packet.duration or 0) * (packet.time_base or 0))
                            rate = stream.codec_context.bit_rate
                            if kind == "audio" and rate and not self._is_told:
                                # Times are counted there, and what is damaged counts as one piece however long it is.
                                length = max(8 * packet.size / rate, lost)
                                clock.skip(length - lost)
                                lost = length
                            damage.add(clock.next, lost)
                            continue
                        for frame in frames:
                            yield frame, stream
        except (av.error.FFmpegError, OSError) as error:
            self._cut_short = True
            reason = getattr(error, "strerror", None) or error
            what = "sound" if kind == "audio" else "video"
            self._warn(f"{self._name}: the {what} is damaged after {clock.next:.1f} s ({reason}); it ends there")
        if damage.pieces:
            what = "sound" if kind == "audio" else "video"
            length = f"{damage.seconds:.1f} s" if damage.seconds >= 0.05 else "less than 0.1 s"
            self._warn(
                f"{self._name}: the {what} is damaged; {length} of it is left out ({damage.pieces} packets, the first "
                f"at {damage.first:.1f} s)"
            )

    @staticmethod
    def _packets(container: InputContainer, stream: Any) -> Iterator[Any]:
        """The packets of a stream; an error ends them only if nothing comes behind it."""
        import av

        came = True
        while True:
            try:
                for packet in container.demux(stream):
                    came = True
                    yield packet
                return
            except av.error.FFmpegError:
                if not came:
                    raise
                came = False


def samples_of(frame: AudioFrame) -> FloatArray:
    """Decoded sound, of whatever type, as ``[n, channels]`` in [-1, 1]."""
    array: NDArray[Any]
    try:
        array = frame.to_ndarray()
    except ValueError:  # a type that numpy is not told of: 64 bit
        import av

        (frame,) = av.AudioResampler(format="dbl").resample(frame)
        array = frame.to_ndarray()
    channels = frame.layout.nb_channels
    samples = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if samples.dtype.kind == "i":
        return (samples / float(1 << (8 * samples.dtype.itemsize - 1))).astype(np.float32)
    return np.ascontiguousarray(samples, np.float32)


def image_of(frame: VideoFrame, aspect: Fraction | None) -> ImageArray:
    """A decoded image as BGR ``[h, w, 3]`` as a player shows it: pixels square, turned and mirrored as it says.

    Args:
        frame: the image.
        aspect: width of a pixel over its height; None or 0 when nobody knows.
    """
    from av.sidedata.sidedata import Type

    width, height, shape = frame.width, frame.height, float(aspect or 1)
    if 1.0 <= shape <= MAX_ASPECT:  # rather more pixels than less
        width = round(width * shape)
    elif 1.0 / MAX_ASPECT <= shape < 1.0:
        height = round(height / shape)
    image = cast(ImageArray, frame.reformat(width, height, "bgr24").to_ndarray())
    matrix = cast(Any, frame.side_data).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return image
    # Where (x, y) is shown: (a x + c y, b x + d y). Of all turns the right angles are known, with or without a mirror.
    a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(matrix), np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _ogg_links(path: Path) -> list[tuple[int, int]]:
    """Where each of the files that make up an Ogg file begins and ends; FFmpeg stops where the channels change."""
    begins: list[int] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position, was_first = 0, False
        while (position := data.find(b"OggS", position)) >= 0 and position + 27 <= len(data):
            is_first = bool(data[position + 5] & 2)  # the first page of a stream; all of them stand at the beginning
            if is_first and not was_first:
                begins.append(position)
            was_first = is_first
            lengths = data[position + 27 : position + 27 + data[position + 26]]
            position += 27 + len(lengths) + sum(lengths)
        size = len(data)
    return list(zip(begins, [*begins[1:], size], strict=True))
