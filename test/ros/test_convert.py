"""Dataclasses to messages and back, pictures of all usual encodings, messages as JSON."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from synctva_ros import msg
from synctva_ros.events import (
    EMOTIONS,
    NANOSECONDS,
    AudioChunk,
    EndedBy,
    Estimate,
    Features,
    Modality,
    Status,
    Transcript,
    TranscriptStatus,
    Utterance,
)
from synctva_ros.ros import messages as m

LAST = (2**31 - 1) * NANOSECONDS + NANOSECONDS - 1  # builtin_interfaces/Time ends in January 2038

times = st.integers(0, LAST)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.integers(0, 2**63)
single = st.floats(-1e6, 1e6, width=32)
double = st.floats(0, 1e6)
vectors = st.lists(single, max_size=20).map(lambda values: np.array(values, np.float32))
some_vector = st.lists(single, min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


def same(one, other):
    """Compare two dataclasses, arrays and NaN included."""
    assert type(one) is type(other)
    for item in dataclasses.fields(one):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, np.ndarray):
            assert b.dtype == np.float32, item.name
            np.testing.assert_array_equal(a, b, err_msg=item.name)
        elif isinstance(a, float) and math.isnan(a):
            assert math.isnan(b), item.name
        else:
            assert a == b, item.name
            assert type(a) is type(b), item.name


def sent(message):
    """The message as it comes out at the other end of a topic."""
    return deserialize_message(serialize_message(message), type(message))


# --- round trips


@st.composite
def chunks(draw):
    channels = draw(st.integers(1, 4))
    values = draw(st.lists(single, max_size=40))
    values = values[: len(values) // channels * channels]
    samples = np.array(values, np.float32).reshape(-1, channels)
    rate = draw(st.integers(8000, 192000))
    return AudioChunk(draw(names), draw(numbers), draw(times), rate, samples, draw(st.booleans()))


@settings(deadline=None)
@given(chunks(), names)
def test_a_chunk_survives(chunk, frame):
    message = m.chunk_to_msg(chunk, frame)
    assert message.header.frame_id == frame
    assert message.channels == chunk.samples.shape[1]
    same(m.chunk_from_msg(sent(message)), chunk)


@pytest.mark.parametrize(("channels", "count"), [(0, 4), (2, 5), (0, 0)])
def test_a_chunk_that_does_not_fit_its_channels_is_refused(channels, count):
    message = msg.AudioChunk(stream_id="m1", sequence=7, channels=channels, samples=array.array("f", [0.0] * count))
    with pytest.raises(ValueError, match=rf"chunk 7 of stream 'm1' has {count} samples for {channels} channels"):
        m.chunk_from_msg(message)


@settings(deadline=None)
@given(
    st.builds(
        Utterance,
        utterance_id=names,
        stream_id=names,
        first_sequence=numbers,
        last_sequence=numbers,
        start=times,
        end=times,
        stream_start=double,
        stream_end=double,
        ended_by=st.sampled_from(EndedBy),
        samples_start=times,
        sample_rate=st.integers(1, 2**31),
        samples=vectors,
        rms=single,
        clipped=st.booleans(),
        speaker_id=names,
    )
)
def test_an_utterance_survives(utterance):
    message = m.utterance_to_msg(utterance, "microphone", utterance.end + NANOSECONDS // 2)
    assert message.endpoint_duration == pytest.approx(0.5, abs=1e-6)
    same(m.utterance_from_msg(sent(message)), utterance)


@settings(deadline=None)
@given(
    st.builds(
        Transcript,
        utterance_id=names,
        status=st.sampled_from(TranscriptStatus),
        text=names,
        language=names,
        language_probability=single | st.just(math.nan),
        average_logprob=single | st.just(math.nan),
        no_speech_probability=single | st.just(math.nan),
        model_id=names,
        duration=single,
    ),
    times,
)
def test_a_transcript_survives(transcript, stamp):
    message = sent(m.transcript_to_msg(transcript, m.header(stamp, "microphone")))
    assert m.from_time(message.header.stamp) == stamp
    same(m.transcript_from_msg(message), transcript)


features = st.builds(
    Features,
    utterance_id=names,
    start=times,
    end=times,
    text_vector=st.none() | some_vector,
    audio_vector=st.none() | some_vector,
    vision_vector=st.none() | some_vector,
    text_encoder=names,
    audio_encoder=names,
    vision_encoder=names,
    stream_id=names,
    stream_start=double,
    stream_end=double,
    speaker_id=names,
    face_id=names,
    person_id=names,
    text=names,
    frames_seen=st.integers(0, 2**31),
    frames_with_face=st.integers(0, 2**31),
    durations=st.dictionaries(names, single, max_size=5),
)


@settings(deadline=None)
@given(features)
def test_features_survive_and_what_is_missing_stays_missing(given_features):
    message = sent(m.features_to_msg(given_features, "microphone"))
    assert message.modalities == int(given_features.modalities)
    same(m.features_from_msg(message), given_features)


def test_a_vector_without_its_bit_is_missing():
    message = msg.UtteranceFeatures(text_vector=array.array("f", [1.0]), modalities=int(Modality.AUDIO))
    got = m.features_from_msg(message)
    assert got.text_vector is None
    assert got.audio_vector is None  # its bit is set, but there is nothing


def test_vectors_do_not_pass_element_by_element():
    vector = np.arange(6, dtype=np.float32)
    for values in (m.floats(vector), m.floats(vector[::2]), m.floats(None)):
        assert isinstance(values, array.array)
        assert values.typecode == "f"
    assert list(m.floats(vector[::2])) == [0.0, 2.0, 4.0]
    chunk = AudioChunk("m1", 0, 0, 16000, vector.reshape(3, 2))
    assert isinstance(m.chunk_to_msg(chunk, "").samples, array.array)
    assert isinstance(m.image_to_msg(0, np.zeros((2, 2, 3), np.uint8), "").data, array.array)


# --- times


@given(st.integers(-(2**31) * NANOSECONDS, LAST))
def test_a_time_survives(nanoseconds):
    time = m.to_time(nanoseconds)
    assert 0 <= time.nanosec < NANOSECONDS
    assert m.from_time(time) == nanoseconds


def test_the_last_second_that_ros_can_tell_survives():
    assert m.from_time(sent(m.header(LAST)).stamp) == LAST


# --- emotion


def estimate(**changes):
    values = {
        "utterance_id": "m1_0",
        "dialogue_id": "d1",
        "turn": 2,
        "labels": EMOTIONS,
        "probabilities": np.array([0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32),
        "contributions": np.array([0.5, 0.5, 0.0], np.float32),
        "modalities": Modality.TEXT | Modality.AUDIO,
        "context": (("m1_1", 0.75), ("m1_2", 0.25)),
        "model_id": "synctva-1",
        "duration": 0.012,
    }
    return Estimate(**(values | changes))


def emotion(status=Status.FINAL, **changes):
    seen = Features(
        utterance_id="m1_0",
        start=1_700_000_000 * NANOSECONDS,
        end=1_700_000_002 * NANOSECONDS,
        stream_id="m1",
        stream_start=1.23456789,
        stream_end=3.23456789,
        text="Hello “you”\n",
        durations={"endpoint": 0.5, "text": 0.1},
    )
    return m.emotion_to_msg(estimate(**changes), seen, status, "microphone", seen.end + NANOSECONDS)


def test_an_emotion_holds_what_the_estimate_and_the_features_say():
    message = sent(emotion())
    assert message.label == "joy"
    assert message.confidence == pytest.approx(0.4)
    assert list(message.labels) == list(EMOTIONS)
    assert list(message.context_ids) == ["m1_1", "m1_2"]
    assert list(message.context_weights) == [0.75, 0.25]
    assert message.contributions == pytest.approx([0.5, 0.5, 0.0])
    assert message.modalities == 3
    assert dict(zip(message.stages, message.durations, strict=True)) == pytest.approx(
        {"endpoint": 0.5, "text": 0.1, "network": 0.012, "total": 1.0}
    )
    assert math.isnan(message.valence)
    assert m.from_time(message.header.stamp) == 1_700_000_002 * NANOSECONDS


@pytest.mark.parametrize("status", Status)
def test_json_has_exactly_the_fields_of_the_message(status):
    message = sent(emotion(status))
    plain = m.emotion_to_dict(message)
    assert set(plain) == set(msg.Emotion.get_fields_and_field_types())
    assert plain["status"] == status.name
    assert plain["valence"] is None
    assert plain["header"] == {"stamp": {"sec": 1_700_000_002, "nanosec": 0}, "frame_id": "microphone"}
    assert plain["stream_start"] == 1.234568
    assert plain["probabilities"][1] == 0.4  # not 0.4000000059604645
    assert plain["text"] == "Hello “you”\n"

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(json.dumps(plain), parse_constant=refuse) == plain


def test_json_has_no_nan_nor_infinity():
    values = np.array([math.nan, math.inf, -math.inf, 0.5, 1e30, 0.0, 1e-12], np.float32)
    plain = m.emotion_to_dict(sent(emotion(probabilities=values)))
    assert plain["probabilities"][:4] == [None, None, None, 0.5]
    assert "NaN" not in json.dumps(plain)
    assert "Infinity" not in json.dumps(plain)


# --- pictures

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (4, 6, 3), np.uint8)


def image(rows, encoding, width, padding=0, big_endian=False):
    """A message with rows ``[h, bytes]``, each followed by padding of rubbish."""
    rows = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    return Image(
        height=len(rows),
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
        data=array.array("B", rows.tobytes()),
    )


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("bgr8", [0, 1, 2]), ("8UC3", [0, 1, 2]), ("rgb8", [2, 1, 0]), ("bgra8", [0, 1, 2]), ("rgba8", [2, 1, 0])],
)
def test_colours(encoding, order, padding):
    pixels = BGR[:, :, order]
    if encoding.endswith("a8"):
        pixels = np.concatenate([pixels, np.full((4, 6, 1), 7, np.uint8)], axis=2)
    got = m.image_from_msg(image(pixels.reshape(4, -1), encoding, 6, padding))
    np.testing.assert_array_equal(got, BGR)
    assert got.flags.c_contiguous
    assert got.dtype == np.uint8


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding, padding):
    got = m.image_from_msg(image(BGR[:, :, 0], encoding, 6, padding))
    np.testing.assert_array_equal(got, np.repeat(BGR[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_sixteen_bits_keep_the_upper_eight(encoding, big_endian, padding):
    grey = RNG.integers(0, 65536, (4, 6)).astype(">u2" if big_endian else "<u2")
    got = m.image_from_msg(image(grey.view(np.uint8).reshape(4, -1), encoding, 6, padding, big_endian))
    np.testing.assert_array_equal(got[:, :, 1], (grey.astype(int) // 256).astype(np.uint8))


@pytest.mark.parametrize("padding", [0, 2, 3])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv422(encoding, order, padding):
    # One colour per pair of pixels, by the definition of BT.601 for video range.
    y, u, v = RNG.integers(16, 236, (4, 6)), RNG.integers(90, 160, (4, 3)), RNG.integers(90, 160, (4, 3))
    parts = {"U": [u], "V": [v], "Y": [y[:, 0::2], y[:, 1::2]]}
    rows = np.stack([parts[letter].pop(0) for letter in order], axis=2).reshape(4, -1).astype(np.uint8)
    luma, red, blue = 1.164 * (y - 16.0), np.repeat(v, 2, axis=1) - 128.0, np.repeat(u, 2, axis=1) - 128.0
    expected = np.stack([luma + 2.018 * blue, luma - 0.813 * red - 0.391 * blue, luma + 1.596 * red], axis=2)
    got = m.image_from_msg(image(rows, encoding, 6, padding))
    np.testing.assert_allclose(got, expected.clip(0, 255), atol=2)


def test_a_picture_survives():
    message = m.image_to_msg(1_700_000_000 * NANOSECONDS + 5, BGR[:, ::-1], "camera")
    assert (message.height, message.width, message.step, message.encoding) == (4, 6, 18, "bgr8")
    assert m.from_time(message.header.stamp) == 1_700_000_000 * NANOSECONDS + 5
    np.testing.assert_array_equal(m.image_from_msg(sent(message)), BGR[:, ::-1])


def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'bayer_rggb8' is not supported.*bgr8.*yuv422"):
        m.image_from_msg(image(BGR.reshape(4, -1), "bayer_rggb8", 6))


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 0},
        {"width": 0},
        {"height": 5},
        {"width": 7},
        {"step": 0},
        {"step": 17},
        {"step": 19},
        {"data": array.array("B")},
        {"data": array.array("B", bytes(71))},
        {"encoding": "yuv422", "width": 5},
        {"encoding": "mono16", "width": 10},
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_sentence(changes):
    message = image(BGR.reshape(4, -1), "bgr8", 6)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match="does not fit together"):
        m.image_from_msg(message)


def test_the_padding_of_the_last_row_may_be_missing():
    message = image(BGR.reshape(4, -1), "bgr8", 6, padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(m.image_from_msg(message), BGR)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(list(m.ENCODINGS)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 40),
    st.binary(max_size=300),
)
def test_any_picture_is_understood_or_refused_with_a_value_error(encoding, height, width, step, data):
    message = Image(encoding=encoding, height=height, width=width, step=step, data=array.array("B", data))
    with contextlib.suppress(ValueError):
        assert m.image_from_msg(message).shape == (height, width, 3)
