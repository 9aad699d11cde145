"""Playing media files, made here with PyAV: whole ones, odd ones and broken ones."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise

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


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_video_filmed_sideways_comes_out_upright(tmp_path, turn):
    path = tmp_path / "a.mp4"
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2] = 255  # bright above
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=FPS, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        out.mux(stream.encode())
    # How to show it: the matrix of the track's header, for a turn clockwise.
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = images_of(play(path)[1])[0].pixels[:, :, 0].astype(float)
    bright = {
        0: shown[: HEIGHT // 4].mean(),
        90: shown[:, -HEIGHT // 4 :].mean(),
        180: shown[-HEIGHT // 4 :].mean(),
        270: shown[:, : HEIGHT // 4].mean(),
    }[turn]
    assert shown.shape == ((HEIGHT, WIDTH) if turn % 180 == 0 else (WIDTH, HEIGHT))
    assert bright > 240


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


def test_a_hole_in_the_sound_keeps_the_time_of_what_comes_after(tmp_path):
    path = tmp_path / "a.mkv"
    sound = tone()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for first in range(0, 32000, 800):
            frame = av.AudioFrame.from_ndarray(sound[first : first + 800].reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = first + (16000 if first >= 16000 else 0)  # a second is missing
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    _, items, _ = play(path)
    end = items[-1].stamp
    assert (end - T0) / NANOSECONDS == pytest.approx(3.0, abs=0.01)
    assert sum(len(item.samples) for item in items) == 32000
    assert [item.sequence for item in items] == list(range(len(items)))
