"""Playing media files, made here with PyAV: whole ones, odd ones and broken ones."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from itertools import groupby, pairwise

import numpy as np
import pytest

from synctva_ros.events import NANOSECONDS, AudioChunk, Image
from synctva_ros.sources.media import MediaFile
from synctva_ros.sources.microphone import SourceError

av = pytest.importorskip("av")

T0 = 1_700_000_000 * NANOSECONDS
SECONDS = 2.0
WIDTH, HEIGHT, FPS = 64, 48, 25


def tone(rate=16000, channels=1, seconds=SECONDS):
    """A tone that swells, another one in each channel: ``[n, channels]`` as 16 bit."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack(
        [np.round(20000 * t / seconds * np.sin(2 * np.pi * 300 * (1 + c) * t)) for c in range(channels)], axis=1
    ).astype(np.int16)


def frame_number(image):
    """What ``write`` made the image's brightness of."""
    return image[:, :, 1].astype(float).mean()


def write(
    path, sound=None, rate=16000, codec="pcm_s16le", fps=FPS, seconds=SECONDS, video="mpeg4", offset=0.0, **options
):
    """Write sound ``[n, channels]`` and, if ``video`` names a codec, images that grow brighter."""
    with av.open(str(path), "w", options=options) as out:
        video_stream = speech = None
        if sound is not None:
            layout = "mono" if sound.shape[1] == 1 else "stereo"
            speech = out.add_stream(codec, rate=rate, layout=layout)
        if video:
            video_stream = out.add_stream(video, rate=fps, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
            video_stream.bit_rate = 2_000_000
            if video == "mpeg4":
                video_stream.codec_context.gop_size = 5
        packets = []
        if speech is not None:
            resampler = av.AudioResampler(format=speech.codec_context.format, layout=layout, rate=rate, frame_size=1024)
            frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(offset * rate), Fraction(1, rate)
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                packets += speech.encode(part)
        if video_stream is not None:
            for number in range(round(seconds * fps)):
                image = np.full((HEIGHT, WIDTH, 3), 4 * (number % 60), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = number + round(offset * fps), Fraction(1, fps)
                packets += video_stream.encode(frame)
            packets += video_stream.encode()
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            out.mux(packet)
    return path


def play(path, **options):
    warnings = []
    media = MediaFile(path, warn=warnings.append, **options)
    items = list(media.play(T0))
    return media, items, warnings


def sound_of(items):
    """The chunks, which must follow one another in number and time, as samples ``[n, channels]``."""
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert len({(chunk.stream_id, chunk.sample_rate, chunk.samples.shape[1]) for chunk in chunks}) == 1
    for before, after in pairwise(chunks):
        expected = before.stamp + len(before.samples) * NANOSECONDS / before.sample_rate
        assert after.stamp == pytest.approx(expected, abs=1000)
    assert [chunk.end_of_stream for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert len(chunks[-1].samples) == 0
    return np.concatenate([chunk.samples for chunk in chunks])


def images_of(items):
    return [item for item in items if isinstance(item, Image)]


# --- sound


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mkv", "pcm_s16le")])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (8000, 1), (44100, 2), (48000, 2)])
def test_lossless_sound_comes_out_as_it_went_in(tmp_path, name, codec, rate, channels):
    path = write(tmp_path / name, tone(rate, channels), rate, codec, video=None)
    media, items, warnings = play(path)
    got = sound_of(items)
    np.testing.assert_array_equal(got, tone(rate, channels) / np.float32(32768))
    assert got.dtype == np.float32
    assert items[0].sample_rate == rate
    assert items[0].stamp == T0
    assert {len(item.samples) for item in items[:-2]} == {round(0.03 * rate)}
    assert media.stream_id[0].isalpha()
    assert (media.has_audio, media.has_video, media.duration) == (True, False, pytest.approx(SECONDS, abs=0.01))
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp3", "libmp3lame"), ("a.ogg", "libvorbis"), ("a.ogg", "libopus"), ("a.m4a", "aac")]
)
def test_lossy_sound_keeps_its_time(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg has no {codec} here")
    rate = 48000
    t = np.arange(round(SECONDS * rate)) / rate
    sweep = np.round(10000 * np.sin(2 * np.pi * (200 + 700 * t) * t)).astype(np.int16)
    path = write(tmp_path / name, np.stack([sweep, sweep], axis=1), rate, codec, video=None)
    _, items, warnings = play(path)
    got, expected = sound_of(items), sweep[:, None] / np.float32(32768)
    assert len(got) == pytest.approx(len(expected), abs=0.06 * rate)
    length = round(1.8 * rate)
    lag = np.argmax(np.correlate(got[20000:length, 0], expected[22000 : length - 2000, 0], "valid"))
    assert abs(lag - 2000) / rate < 0.035  # encoders put a little silence first that not all containers tell of
    assert warnings == []


def test_chunks_are_as_long_as_asked(tmp_path):
    _, items, _ = play(write(tmp_path / "a.wav", tone(), video=None), chunk=0.1)
    assert [len(item.samples) for item in items] == [1600] * 20 + [0]


def test_playing_again_gives_the_same_as_another_stream(tmp_path):
    media = MediaFile(write(tmp_path / "a.mkv", tone()), frame_id="head")
    first = list(media.play(T0))
    assert {item.stream_id for item in first if isinstance(item, AudioChunk)} == {media.stream_id}
    second = list(media.play(T0))
    assert {item.stream_id for item in second if isinstance(item, AudioChunk)} == {media.stream_id}
    assert first[-1].stream_id != second[-1].stream_id
    assert {item.frame_id for item in first + second} == {"head"}
    assert [item.stamp for item in first] == [item.stamp for item in second]
    np.testing.assert_array_equal(sound_of(first), sound_of(second))


# --- images


def test_without_sound_there_are_images_and_a_warning(tmp_path):
    media, items, warnings = play(write(tmp_path / "a.mp4"))
    assert len(items) == len(images_of(items)) == 20
    assert not media.has_audio
    assert len(warnings) == 1
    assert "no sound" in warnings[0]


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mp4", "aac"), ("a.avi", "pcm_s16le")])
def test_sound_and_images_come_in_the_order_of_time(tmp_path, name, codec):
    media, items, warnings = play(write(tmp_path / name, tone(48000), 48000, codec))
    assert media.has_audio
    assert media.has_video
    stamps = [item.stamp for item in items]
    assert stamps[:-1] == sorted(stamps[:-1])
    images = images_of(items)
    assert len(images) == 20
    for number, image in enumerate(images):
        assert (image.stamp - T0) / NANOSECONDS == pytest.approx(0.1 * number, abs=0.06)
        assert image.pixels.shape == (HEIGHT, WIDTH, 3)
        assert image.pixels.dtype == np.uint8
        true = round((image.stamp - T0) / NANOSECONDS * FPS)
        assert frame_number(image.pixels) == pytest.approx(4 * true, abs=6)
    sound_of(items)
    assert warnings == []


@pytest.mark.parametrize("rate", [1.0, 7.0, 25.0, 60.0])
def test_there_are_no_more_images_than_asked_for(tmp_path, rate):
    path = write(tmp_path / "a.mkv", tone())
    images = images_of(play(path, video_rate=rate)[1])
    assert len(images) == pytest.approx(SECONDS * min(rate, FPS), abs=1)
    gaps = [(after.stamp - before.stamp) / NANOSECONDS for before, after in pairwise(images)]
    assert min(gaps) > 1 / min(rate, FPS) - 1.1 / FPS


def test_images_can_be_left_out(tmp_path):
    assert images_of(play(write(tmp_path / "a.mkv", tone()), video_rate=0.0)[1]) == []


def test_the_end_comes_last_also_when_there_are_images_after_the_sound(tmp_path):
    _, items, warnings = play(write(tmp_path / "a.mkv", tone(seconds=0.5)))
    assert items[-1].end_of_stream
    assert len(sound_of(items)) == 8000
    assert len(images_of(items)) == 20
    assert warnings == []


def test_sound_that_is_shorter_than_the_video_is_not_taken_for_cut_off(tmp_path):
    _, items, warnings = play(write(tmp_path / "a.mkv", tone(seconds=0.5)), video_rate=0.0)
    assert len(sound_of(items)) == 8000
    assert warnings == []


def test_a_file_that_does_not_begin_at_zero_begins_at_the_origin(tmp_path):
    path = write(tmp_path / "a.mkv", tone(), offset=5.0)
    with av.open(str(path)) as container:
        assert container.start_time == pytest.approx(5_000_000, abs=50_000)
    _, items, _ = play(path)
    for kind in (AudioChunk, Image):
        first = next(item for item in items if isinstance(item, kind))
        assert first.stamp == pytest.approx(T0, abs=0.05 * NANOSECONDS)
    assert len(sound_of(items)) == 32000


def test_a_cover_picture_is_no_video(tmp_path):
    cover = tmp_path / "cover.png"
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(cover), "w", format="image2") as out:
        stream = out.add_stream("png", rate=1, width=WIDTH, height=HEIGHT, pix_fmt="rgb24")
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()]:
            out.mux(packet)
    plain = write(tmp_path / "plain.flac", tone(), codec="flac", video=None).read_bytes()
    # A FLAC picture block (type 6) put right behind STREAMINFO, the first block of 38 bytes.
    data = cover.read_bytes()
    mime = b"image/png"
    block = struct.pack(">II", 3, len(mime)) + mime + struct.pack(">I5I", 0, WIDTH, HEIGHT, 24, 0, len(data)) + data
    path = tmp_path / "song.flac"
    path.write_bytes(plain[:42] + bytes([6]) + len(block).to_bytes(3, "big") + block + plain[42:])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    media, items, _ = play(path)
    assert media.has_audio
    assert not media.has_video
    assert len(sound_of(items)) == 32000


#: Where (x, y) of what is stored is shown: (a x + c y, b x + d y), as the matrix of a track says, and numpy the same.
MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "left": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "mirrored upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "mirrored left": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "mirrored right": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
}


@pytest.mark.parametrize("how", MATRICES)
@pytest.mark.parametrize("aspect", [1, 2, Fraction(1, 2)])
def test_a_video_is_seen_as_a_player_shows_it(tmp_path, how, aspect):
    path = tmp_path / "a.mp4"
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[: HEIGHT // 2], stored[: HEIGHT // 2, : WIDTH // 2] = 120, 240  # each corner but two has its own brightness
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="bgr24")))
        out.mux(stream.encode())
    (a, b, c, d), as_shown = MATRICES[how]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    width, height = (WIDTH * 2, HEIGHT) if aspect == 2 else (WIDTH, HEIGHT) if aspect == 1 else (WIDTH, HEIGHT * 2)
    got = images_of(play(path)[1])[0].pixels
    expected = as_shown(np.repeat(np.repeat(stored, height // HEIGHT, 0), width // WIDTH, 1))
    assert got.shape == expected.shape
    assert np.abs(got.astype(float) - expected).mean() < 6


def test_a_nonsense_shape_of_the_pixels_is_not_believed(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = Fraction(200, 1)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="bgr24")))
        out.mux(stream.encode())
    assert images_of(play(path)[1])[0].pixels.shape == (HEIGHT, WIDTH, 3)


# --- names


@pytest.mark.parametrize(
    "name", ["2024-08-20T13:28:35Z.wav", "http:..wav", "%03d.wav", "-.wav", "a\nb.wav", "\u2028.wav"]
)
def test_a_name_may_look_like_a_protocol_or_a_pattern(tmp_path, monkeypatch, name):
    write(tmp_path / "a.wav", tone(), video=None).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, f"./{name}", tmp_path / name):
        assert len(sound_of(play(path)[1])) == 32000


def test_a_name_need_not_be_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/Stra\xdfe.wav")
    write(tmp_path / "a.wav", tone(), video=None).rename(path)
    assert len(sound_of(play(path)[1])) == 32000
    os.truncate(path, 20)
    with pytest.raises(SourceError, match=r"Stra\\xdfe\.wav: cannot be read") as caught:
        MediaFile(path)
    str(caught.value).encode("utf-8")


# --- tracks


def tracks(path, sounds, default):
    """Sound tracks, each ``[n, channels]``, of which one may be marked as the default."""
    with av.open(str(path), "w") as out:
        streams = []
        for number, sound in enumerate(sounds):
            streams.append(out.add_stream("flac", rate=16000, layout="mono" if sound.shape[1] == 1 else "stereo"))
            streams[-1].disposition = av.stream.Disposition.default if number == default else 0
        packets = []
        for stream, sound in zip(streams, sounds, strict=True):
            for first in range(0, len(sound), 1600):
                part = np.ascontiguousarray(sound[first : first + 1600]).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout=stream.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = 16000, first, Fraction(1, 16000)
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts):
            out.mux(packet)
    return path


@pytest.mark.parametrize(
    ("channels", "default", "taken"), [((1, 1), 1, 1), ((1, 2), None, 1), ((2, 1), 1, 1), ((1, 1), None, 0)]
)
def test_of_several_sound_tracks_the_one_of_ffmpeg_is_taken_and_said(tmp_path, channels, default, taken):
    sounds = [np.full((16000, count), 1000 * (number + 1), np.int16) for number, count in enumerate(channels)]
    _, items, warnings = play(tracks(tmp_path / "a.mkv", sounds, default))
    np.testing.assert_array_equal(sound_of(items), sounds[taken] / np.float32(32768))
    assert len(warnings) == 1
    assert f"a.mkv: of its 2 sound tracks number {taken + 1} is taken" in warnings[0]


def test_of_several_video_tracks_the_largest_is_taken(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        streams = [
            out.add_stream("mpeg4", rate=FPS, width=WIDTH * size, height=HEIGHT * size, pix_fmt="yuv420p")
            for size in (1, 2)
        ]
        for stream in streams:
            stream.disposition = 0
        for stream in streams:
            image = np.zeros((stream.height, stream.width, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            out.mux(stream.encode())
    _, items, warnings = play(path)
    assert images_of(items)[0].pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert any("of its 2 video tracks number 2 is taken" in warning for warning in warnings)


def test_sound_without_a_decoder_is_said(tmp_path):
    data = bytearray(write(tmp_path / "a.wav", tone(), video=None).read_bytes())
    data[20:22] = b"\x34\x12"  # a code that nobody knows
    (tmp_path / "a.wav").write_bytes(data)
    warnings = []
    with pytest.raises(SourceError, match="neither sound nor video"):
        MediaFile(tmp_path / "a.wav", warn=warnings.append)
    assert len(warnings) == 1
    assert "a.wav: FFmpeg has no decoder for its sound" in warnings[0]


# --- what changes midway


def parts_of(items):
    """Rate, channels and seconds of each run of chunks that have them in common."""
    chunks = [item for item in items if isinstance(item, AudioChunk) and len(item.samples)]
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    for before, after in pairwise(chunks):
        assert after.stamp == pytest.approx(before.end, abs=1000)
    return [
        (*key, sum(len(chunk.samples) for chunk in run) / key[0])
        for key, run in groupby(chunks, key=lambda chunk: (chunk.sample_rate, chunk.channels))
    ]


@pytest.mark.parametrize(
    ("ending", "codec"), [("aac", "aac"), ("ogg", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame")]
)
@pytest.mark.parametrize("formats", [((48000, 1), (48000, 2)), ((48000, 2), (24000, 1)), ((48000, 1), (48000, 1))])
def test_sound_may_change_its_rate_and_channels_midway(tmp_path, ending, codec, formats):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg has no {codec} here")
    data = b""
    for rate, channels in formats:
        data += write(tmp_path / f"part.{ending}", tone(rate, channels), rate, codec, video=None).read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(data)
    _, items, warnings = play(tmp_path / f"a.{ending}")
    parts = parts_of(items)
    assert sum(seconds for _, _, seconds in parts) == pytest.approx(2 * SECONDS, abs=0.2)
    assert [key for key, _ in groupby(part[1] for part in parts)] == [
        channels for _, channels in dict.fromkeys(formats)
    ]
    if codec != "libopus":  # which always decodes to 48 kHz
        assert (parts[0][0], parts[-1][0]) == (formats[0][0], formats[-1][0])
    assert all("less than 0.1 s of it is left out" in warning for warning in warnings), warnings


def test_transport_streams_may_be_joined(tmp_path):
    path = tmp_path / "a.ts"
    data = write(tmp_path / "one.ts", tone(48000), 48000, "mp2", video="mpeg2video").read_bytes()
    late = write(tmp_path / "two.ts", tone(48000), 48000, "mp2", video="mpeg2video", offset=300.0).read_bytes()
    for parts in (data + data, data + late, late + data):
        path.write_bytes(parts)
        _, items, _ = play(path)
        ((_, _, seconds),) = parts_of(items)
        assert seconds == pytest.approx(2 * SECONDS, abs=0.15)
        times = [(image.stamp - T0) / NANOSECONDS for image in images_of(items)]
        assert len(times) == pytest.approx(40, abs=2)
        assert times == sorted(times)
        assert times[-1] == pytest.approx(2 * SECONDS, abs=0.3)


def test_images_may_change_their_size_midway(tmp_path):
    data = b""
    for size in (1, 2):
        with av.open(str(tmp_path / "part.mjpeg"), "w", format="mjpeg") as out:
            stream = out.add_stream("mjpeg", rate=FPS, width=WIDTH * size, height=HEIGHT * size, pix_fmt="yuvj420p")
            image = np.zeros((HEIGHT * size, WIDTH * size, 3), np.uint8)
            for _ in range(25):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            out.mux(stream.encode())
        data += (tmp_path / "part.mjpeg").read_bytes()
    (tmp_path / "a.mjpeg").write_bytes(data)
    images = images_of(play(tmp_path / "a.mjpeg")[1])
    assert [image.pixels.shape[0] for image in images] == [HEIGHT] * 10 + [2 * HEIGHT] * 10


# --- kinds of sound and of time


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        *(("pcm_s24le", 0), ("pcm_s32le", 0), ("pcm_s64le", 0), ("pcm_f32le", 0), ("pcm_f64le", 0)),
        *(("pcm_u8", 0.008), ("pcm_mulaw", 0.02), ("pcm_alaw", 0.02)),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mkv"])
def test_sound_of_any_depth_is_as_loud_as_it_was(tmp_path, codec, tolerance, name):
    if name == "a.mkv" and codec in ("pcm_s64le", "pcm_mulaw", "pcm_alaw"):
        pytest.skip("Matroska does not take it")
    path = write(tmp_path / name, tone(8000, 2), 8000, codec, video=None)
    _, items, warnings = play(path)
    np.testing.assert_allclose(sound_of(items), tone(8000, 2) / np.float32(32768), atol=tolerance + 1e-6)
    assert warnings == []


def test_one_voice_in_a_layout_of_six_channels(tmp_path):
    path = tmp_path / "a.wav"
    sound = np.zeros((16000, 6), np.int16)
    sound[:, 2] = tone(seconds=1)[:, 0]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="5.1")
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="s16", layout="5.1")
        frame.sample_rate = 16000
        out.mux([*stream.encode(frame), *stream.encode()])
    np.testing.assert_array_equal(sound_of(play(path)[1]), sound / np.float32(32768))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 1000, 10_000_000])
def test_the_length_in_the_header_of_a_wav_may_be_wrong(tmp_path, length):
    data = bytearray(write(tmp_path / "a.wav", tone(), video=None).read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    data[4:8] = struct.pack("<I", min(length + at, 0xFFFFFFFF))
    (tmp_path / "a.wav").write_bytes(data)
    _, items, warnings = play(tmp_path / "a.wav")
    assert len(sound_of(items)) == (500 if length == 1000 else 32000)
    assert warnings == []


@pytest.mark.parametrize("offset", [3600.0, -1.0])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_times_may_begin_anywhere(tmp_path, offset, name):
    if offset < 0 and name != "a.mkv":
        pytest.skip("FFmpeg moves negative times when it writes this")
    codec = "pcm_s16le" if name == "a.mkv" else "mp2"
    options = {"avoid_negative_ts": "disabled"} if offset < 0 else {}
    path = write(tmp_path / name, tone(48000), 48000, codec, offset=offset, **options)
    _, items, warnings = play(path)
    assert len(sound_of(items)) / 48000 == pytest.approx(SECONDS, abs=0.1)
    assert items[0].stamp == pytest.approx(T0, abs=0.1 * NANOSECONDS)
    times = [(image.stamp - T0) / NANOSECONDS for image in images_of(items)]
    assert len(times) == pytest.approx(20, abs=1)
    assert times[-1] == pytest.approx(SECONDS, abs=0.3)
    assert warnings == []


def test_images_of_a_variable_rate_keep_their_times(tmp_path):
    path, at = tmp_path / "a.mkv", [0.0, 0.04, 0.5, 0.54, 2.0, 3.5]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=1000, width=WIDTH, height=HEIGHT, pix_fmt="yuvj420p")
        for time in at:
            frame = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="bgr24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    times = [(image.stamp - T0) / NANOSECONDS for image in images_of(play(path, video_rate=100.0)[1])]
    assert times == pytest.approx(at, abs=0.002)


def test_images_without_times_come_at_their_rate(tmp_path):
    path = write(tmp_path / "a.m4v", video="mpeg4")
    times = [(image.stamp - T0) / NANOSECONDS for image in images_of(play(path)[1])]
    assert times == pytest.approx(np.arange(20) / 10, abs=0.06)


def test_a_gif_is_a_video_without_sound(tmp_path):
    path = tmp_path / "a.gif"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=10, width=WIDTH, height=HEIGHT, pix_fmt="rgb8")
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8), format="bgr24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    media, items, warnings = play(path)
    assert (media.has_audio, media.has_video) == (False, True)
    times = [(image.stamp - T0) / NANOSECONDS for image in images_of(items)]
    assert times == pytest.approx(np.arange(10) / 10, abs=0.02)
    assert len(warnings) == 1
    assert "no sound" in warnings[0]


def test_tags_need_not_be_utf_8(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "Xberblick"
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        stream.metadata["title"] = "GrYnd"
        frame = av.AudioFrame.from_ndarray(tone().reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 16000
        out.mux([*stream.encode(frame), *stream.encode()])
    data = path.read_bytes()
    assert b"Xber" in data
    assert b"GrYnd" in data
    path.write_bytes(data.replace(b"Xber", b"\xdcber").replace(b"GrYnd", b"Gr\xfcnd"))
    assert len(sound_of(play(path)[1])) == 32000


# --- bad files


def bad_files(folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.txt").write_text("This is no media file.\n" * 200)
    (folder / "words.mp4").write_text("This is no media file.\n" * 200)
    (folder / "bytes.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "titles.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    (folder / "folder.mp4").mkdir()
    return ("empty.wav", "words.txt", "words.mp4", "bytes.bin", "titles.srt", "folder.mp4", "missing.mp4")


def test_what_is_no_media_file_is_refused_with_a_sentence_that_names_it(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(SourceError) as caught:
            MediaFile(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value), name
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "codec", "video", "options"),
    [
        ("a.mkv", "flac", "mpeg4", {}),
        ("a.flac", "flac", None, {}),
        ("a.mp4", "aac", "mpeg4", {"movflags": "faststart"}),
    ],
)
def test_of_a_file_that_is_cut_off_the_rest_is_played_with_a_warning(tmp_path, name, codec, video, options):
    whole = write(tmp_path / name, tone(48000, seconds=4.0), 48000, codec, video=video, seconds=4.0, **options)
    data = whole.read_bytes()
    path = tmp_path / ("cut_" + name)
    path.write_bytes(data[: len(data) * 6 // 10])
    _, items, warnings = play(path)
    length = len(sound_of(items)) / 48000
    assert 1.0 < length < 3.5
    assert len(warnings) >= 1
    assert all(str(path) in warning for warning in warnings)
    if video:
        assert 10 < len(images_of(items)) < 38


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.mp3", "libmp3lame")])
def test_a_file_that_does_not_tell_its_length_just_ends_where_it_is_cut_off(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg has no {codec} here")
    data = write(tmp_path / name, tone(48000, seconds=4.0), 48000, codec, video=None).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    _, items, _ = play(tmp_path / name)
    assert len(sound_of(items)) / 48000 == pytest.approx(2.4, abs=0.4)


@pytest.mark.parametrize(("name", "codec", "video"), [("a.mkv", "flac", "mpeg4"), ("a.flac", "flac", None)])
def test_damage_in_the_middle_is_no_exception(tmp_path, name, codec, video):
    data = bytearray(write(tmp_path / name, tone(48000), 48000, codec, video=video).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path = tmp_path / ("bad_" + name)
    path.write_bytes(data)
    _, items, _ = play(path)
    chunks = [item for item in items if isinstance(item, AudioChunk)]
    assert chunks[-1].end_of_stream
    assert sum(len(chunk.samples) for chunk in chunks) > 0.3 * SECONDS * 48000


def packets_of(path, sound, change):
    """FLAC in Matroska, a packet per 0.1 s, after ``change`` has had its way with the list of packets."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("flac", rate=16000, layout="mono")
        packets = []
        for first in range(0, len(sound), 1600):
            part = av.AudioFrame.from_ndarray(sound[first : first + 1600].reshape(1, -1), format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = 16000, first, Fraction(1, 16000)
            packets += stream.encode(part)
        packets += stream.encode()
        for packet in change(packets):
            out.mux(packet)
    return path


def test_behind_a_damaged_packet_the_sound_goes_on_and_keeps_its_time(tmp_path):
    def spoil(packets):
        for number in (5, 6, 12):
            bad = av.Packet(b"\xff" * packets[number].size)
            for name in ("pts", "dts", "duration", "time_base", "stream"):
                setattr(bad, name, getattr(packets[number], name))
            packets[number] = bad
        return packets

    sound = tone()
    path = packets_of(tmp_path / "a.mkv", sound, spoil)
    _, items, warnings = play(path)
    with av.open(str(path)) as container:
        size = next(iter(container.decode(audio=0))).samples
    expected = sound / np.float32(32768)
    for number in (5, 6, 12):
        expected[number * size : (number + 1) * size] = 0
    got = sound_of(items)
    np.testing.assert_allclose(got[: len(expected)], expected, atol=1e-4)
    lost = f"{3 * size / 16000:.1f}"
    assert warnings == [
        f"{path}: the sound is damaged; {lost} s of it is left out (3 packets, the first at {5 * size / 16000:.1f} s)"
    ]


def test_behind_a_damaged_image_others_come(tmp_path):
    path = write(tmp_path / "a.mkv", video="mpeg4")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for number in (20, 21):
        at = data.index(bytes(packets[number]))
        data[at : at + packets[number].size] = b"\0" * packets[number].size
    path.write_bytes(data)
    images = images_of(play(path, video_rate=25.0)[1])
    assert len(images) >= 46
    assert (images[-1].stamp - T0) / NANOSECONDS > 1.9


@pytest.mark.parametrize("missing", [0.5, 5.0])
def test_a_hole_in_the_sound_keeps_the_time_of_what_comes_after(tmp_path, missing):
    path = tmp_path / "a.mkv"
    sound = tone()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for first in range(0, 32000, 800):
            frame = av.AudioFrame.from_ndarray(sound[first : first + 800].reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = first + (round(missing * 16000) if first >= 16000 else 0)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    _, items, _ = play(path)
    assert (items[-1].stamp - T0) / NANOSECONDS == pytest.approx(SECONDS + missing, abs=0.01)
    numbers = [item.sequence for item in items]
    if missing > 2:  # a gap in the numbers, which ends an utterance
        assert sum(len(item.samples) for item in items) == 32000
        (gap,) = [after - before - 1 for before, after in pairwise(numbers) if after - before != 1]
        assert gap * 0.03 == pytest.approx(missing, abs=0.03)
    else:  # silence, as a player plays it
        assert numbers == list(range(len(items)))
        got = sound_of(items)
        assert (got[16000 : 16000 + round(missing * 16000)] == 0).all()
        np.testing.assert_array_equal(got[-16000:], sound[-16000:] / np.float32(32768))
