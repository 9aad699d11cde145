"""Events to messages and back, images of all usual encodings, emotions as JSON."""

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

import cv2
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage

from synctva_ros import msg
from synctva_ros.events import (
    EMOTIONS,
    MODALITIES,
    NANOSECONDS,
    SHARES,
    AudioChunk,
    Emotion,
    EndedBy,
    Face,
    Faces,
    Features,
    Image,
    Modality,
    Status,
    Transcript,
    TranscriptStatus,
    Utterance,
)
from synctva_ros.ros import convert

LAST = (2**31 - 1) * NANOSECONDS + NANOSECONDS - 1  # builtin_interfaces/Time ends in January 2038

times = st.integers(0, LAST)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.integers(0, 2**63)
single = st.floats(-1e6, 1e6, width=32)
double = st.floats(0, 1e6)
vectors = st.lists(single, max_size=20).map(lambda values: np.array(values, np.float32))
some_vector = st.lists(single, min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


def same(one, other):
    """Compare two events, with all that is in them: arrays, NaN, parts, types."""
    assert type(one) is type(other)
    for item in dataclasses.fields(one):
        same_value(getattr(one, item.name), getattr(other, item.name), item.name)


def same_value(a, b, name):
    if isinstance(a, np.ndarray):
        assert b.dtype == np.float32, name
        np.testing.assert_array_equal(a, b, err_msg=name)
        return
    assert type(a) is type(b), name
    if isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), name
    elif isinstance(a, tuple):
        assert len(a) == len(b), name
        for one, other in zip(a, b, strict=True):
            same_value(one, other, name)
    elif dataclasses.is_dataclass(a):
        same(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b), name
        for key in a:
            same_value(a[key], b[key], f"{name}.{key}")
    else:
        assert a == b, name


def sent(message):
    """The message as it comes out at the other end of a topic."""
    return deserialize_message(serialize_message(message), type(message))


# --- round trips


maybe = single | st.just(math.nan)
shares = st.dictionaries(names, maybe, max_size=5)


@st.composite
def chunks(draw):
    channels = draw(st.integers(1, 4))
    values = draw(st.lists(single, max_size=40))
    values = values[: len(values) // channels * channels]
    samples = np.array(values, np.float32).reshape(-1, channels)
    rate = draw(st.integers(8000, 192000))
    return AudioChunk(draw(names), draw(numbers), draw(times), rate, samples, draw(st.booleans()), draw(names))


@settings(deadline=None)
@given(chunks())
def test_a_chunk_survives(chunk):
    message = convert.to_msg(chunk)
    assert message.header.frame_id == chunk.frame_id
    assert message.channels == chunk.samples.shape[1]
    same(convert.from_msg(AudioChunk, sent(message)), chunk)


@pytest.mark.parametrize(("channels", "count"), [(0, 4), (2, 5), (0, 0)])
def test_a_chunk_that_does_not_fit_its_channels_is_refused(channels, count):
    message = msg.AudioChunk(stream_id="m1", sequence=7, channels=channels, samples=array.array("f", [0.0] * count))
    with pytest.raises(ValueError, match=rf"chunk 7 of stream 'm1' has {count} samples for {channels} channels"):
        convert.from_msg(AudioChunk, message)


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
        overlap=single,
        ended_by=st.sampled_from(EndedBy),
        samples_start=times,
        sample_rate=st.integers(1, 2**31),
        samples=vectors,
        rms=single,
        clipped=st.booleans(),
        speaker_id=names,
        frame_id=names,
        is_final=st.booleans(),
        durations=st.fixed_dictionaries({"turns": single}),
    )
)
def test_an_utterance_survives(utterance):
    message = sent(convert.to_msg(utterance))
    assert message.endpoint_duration == pytest.approx(utterance.durations["turns"])
    assert convert.from_time(message.header.stamp) == utterance.end
    same(convert.from_msg(Utterance, message, is_final=utterance.is_final), utterance)


def test_a_partial_event_comes_from_its_own_topic():
    """No message has a field for it."""
    for kind in (Utterance, Transcript, Features):
        for is_final in (True, False):
            assert convert.from_msg(kind, convert.MESSAGES[kind](), is_final=is_final).is_final is is_final


@settings(deadline=None)
@given(
    st.builds(
        Transcript,
        utterance_id=names,
        end=times,
        status=st.sampled_from(TranscriptStatus),
        text=names,
        language=names,
        language_probability=maybe,
        average_logprob=maybe,
        no_speech_probability=maybe,
        model_id=names,
        duration=single,
        frame_id=names,
        is_final=st.booleans(),
    )
)
def test_a_transcript_survives(transcript):
    message = sent(convert.to_msg(transcript))
    assert convert.from_time(message.header.stamp) == transcript.end
    same(convert.from_msg(Transcript, message, is_final=transcript.is_final), transcript)


def five_points(values):
    return np.array(values, np.float32).reshape(5, 2)


faces = st.builds(
    Face,
    face_id=names,
    x=single,
    y=single,
    width=single,
    height=single,
    score=single,
    quality=single,
    landmarks=st.none() | st.lists(single, min_size=10, max_size=10).map(five_points),
    expression=st.none() | some_vector,
    mouth_opening=maybe,
    person_id=names,
)


@settings(deadline=None)
@given(
    st.builds(
        Faces,
        stamp=times,
        looked_at=st.booleans(),
        faces=st.lists(faces, max_size=3).map(tuple),
        height=st.integers(0, 2**31),
        width=st.integers(0, 2**31),
        encoder=names,
        duration=single,
        frame_id=names,
    )
)
def test_faces_survive(found):
    message = sent(convert.to_msg(found))
    assert convert.from_time(message.header.stamp) == found.stamp
    same(convert.from_msg(Faces, message), found)


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
    overlap=single,
    speaker_id=names,
    face_id=names,
    person_id=names,
    text=names,
    frames_seen=st.integers(0, 2**31),
    frames_with_face=st.integers(0, 2**31),
    ended_by=st.sampled_from(EndedBy),
    frame_id=names,
    is_final=st.booleans(),
    durations=shares,
    work=shares,
)


@settings(deadline=None)
@given(features)
def test_features_survive_and_what_is_missing_stays_missing(given_features):
    message = sent(convert.to_msg(given_features))
    assert message.modalities == int(given_features.modalities)
    same(convert.from_msg(Features, message, is_final=given_features.is_final), given_features)


def test_a_vector_without_its_bit_is_missing():
    message = msg.UtteranceFeatures(text_vector=array.array("f", [1.0]), modalities=int(Modality.AUDIO))
    got = convert.from_msg(Features, message)
    assert got.text_vector is None
    assert got.audio_vector is None  # its bit is set, but there is nothing


def test_vectors_do_not_pass_element_by_element():
    vector = np.arange(6, dtype=np.float32)
    for values in (convert.floats(vector), convert.floats(vector[::2]), convert.floats(None)):
        assert isinstance(values, array.array)
        assert values.typecode == "f"
    assert list(convert.floats(vector[::2])) == [0.0, 2.0, 4.0]
    chunk = AudioChunk("m1", 0, 0, 16000, vector.reshape(3, 2))
    assert isinstance(convert.to_msg(chunk).samples, array.array)
    assert isinstance(convert.image_to_msg(Image(0, np.zeros((2, 2, 3), np.uint8))).data, array.array)


# --- times


@given(st.integers(-(2**31) * NANOSECONDS, LAST))
def test_a_time_survives(nanoseconds):
    time = convert.to_time(nanoseconds)
    assert 0 <= time.nanosec < NANOSECONDS
    assert convert.from_time(time) == nanoseconds


def test_the_last_second_that_ros_can_tell_survives():
    assert convert.from_time(sent(convert.to_msg(Faces(LAST, False))).header.stamp) == LAST


# --- emotion


def emotion(status=Status.FINAL, **changes):
    values = {
        "end": 1_700_000_002 * NANOSECONDS,
        "frame_id": "microphone",
        "start": 1_700_000_000 * NANOSECONDS,
        "utterance_id": "m1_0",
        "dialogue_id": "d1",
        "speaker_id": "",
        "face_id": "f1",
        "person_id": "",
        "turn": 2,
        "stream_id": "m1",
        "stream_start": 1.23456789,
        "stream_end": 3.23456789,
        "overlap": 0.25,
        "text": "Hello “you”\n",
        "label": "joy",
        "labels": EMOTIONS,
        "probabilities": np.array([0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32),
        "confidence": 0.4,
        "status": status,
        "valence": math.nan,
        "arousal": math.nan,
        "modalities": Modality.TEXT | Modality.AUDIO,
        "contributions": np.array([0.5, 0.5, 0.0], np.float32),
        "context_ids": ("m1_1", "m1_2"),
        "context_weights": (0.75, 0.25),
        "durations": {"turns": 0.5, "fusion": 0.25, "dialogue": 0.25, "total": 1.0},
        "work": {"text": 0.1, "network": 0.012},
        "model_id": "synctva-1",
    }
    return Emotion(**(values | changes))


def test_a_message_holds_what_the_emotion_says():
    message = sent(convert.to_msg(emotion()))
    assert message.label == "joy"
    assert message.confidence == pytest.approx(0.4)
    assert list(message.labels) == list(EMOTIONS)
    assert list(message.context_ids) == ["m1_1", "m1_2"]
    assert list(message.context_weights) == [0.75, 0.25]
    assert message.contributions == pytest.approx([0.5, 0.5, 0.0])
    assert message.modalities == 3
    assert list(message.stages) == ["turns", "fusion", "dialogue", "total"]
    assert list(message.durations) == [0.5, 0.25, 0.25, 1.0]
    assert list(message.work) == ["text", "network"]
    assert list(message.work_durations) == pytest.approx([0.1, 0.012])
    assert math.isnan(message.valence)
    assert convert.from_time(message.header.stamp) == 1_700_000_002 * NANOSECONDS
    assert convert.from_time(message.start) == 1_700_000_000 * NANOSECONDS


@settings(deadline=None)
@given(
    st.builds(
        Emotion,
        end=times,
        frame_id=names,
        start=times,
        utterance_id=names,
        dialogue_id=names,
        speaker_id=names,
        face_id=names,
        person_id=names,
        turn=st.integers(0, 2**31),
        stream_id=names,
        stream_start=double,
        stream_end=double,
        overlap=single,
        text=names,
        label=names,
        labels=st.lists(names, max_size=9).map(tuple),
        probabilities=vectors,
        confidence=single,
        status=st.sampled_from(Status),
        valence=maybe,
        arousal=maybe,
        modalities=st.integers(0, 7).map(Modality),
        contributions=st.lists(maybe, min_size=3, max_size=3).map(lambda values: np.array(values, np.float32)),
        context_ids=st.lists(names, max_size=5).map(tuple),
        context_weights=st.lists(single, max_size=5).map(tuple),
        durations=shares,
        work=shares,
        model_id=names,
    )
)
def test_an_emotion_survives(given_emotion):
    same(convert.from_msg(Emotion, sent(convert.to_msg(given_emotion))), given_emotion)


def test_event_message_and_json_have_the_same_fields_in_the_same_order():
    """But for the header, which is two fields of the event, and what a message holds as names beside numbers."""
    told = list(msg.Emotion.get_fields_and_field_types())
    event = [field.name for field in dataclasses.fields(Emotion)]
    assert event[:2] == ["end", "frame_id"]
    pairs = {name: [name] for name in event[2:]} | {name: list(both) for name, both in SHARES.items()}
    assert ["header", *(part for name in event[2:] for part in pairs[name])] == told
    assert list(emotion().as_json()) == told


def test_constants_of_the_messages_are_those_of_the_events():
    for kind, enumeration in (
        (msg.Emotion, Status),
        (msg.Emotion, Modality),
        (msg.UtteranceFeatures, Modality),
        (msg.Utterance, EndedBy),
        (msg.Transcript, TranscriptStatus),
    ):
        assert {item.name: getattr(kind, item.name) for item in enumeration} == {
            item.name: item.value for item in enumeration
        }
    assert [bit.name.lower() for bit in Modality] == list(MODALITIES)


@pytest.mark.parametrize("status", Status)
def test_json_has_exactly_the_fields_of_the_message(status):
    plain = convert.from_msg(Emotion, sent(convert.to_msg(emotion(status)))).as_json()
    assert plain == emotion(status).as_json()
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
    plain = emotion(probabilities=values).as_json()
    assert plain["probabilities"][:4] == [None, None, None, 0.5]
    assert "NaN" not in json.dumps(plain)
    assert "Infinity" not in json.dumps(plain)


# --- images

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (4, 6, 3), np.uint8)


def image(rows, encoding, width, padding=0, big_endian=False):
    """A message with rows ``[h, bytes]``, each followed by padding of rubbish."""
    rows = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    return RosImage(
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
    got = convert.pixels(image(pixels.reshape(4, -1), encoding, 6, padding))
    np.testing.assert_array_equal(got, BGR)
    assert got.flags.c_contiguous
    assert got.dtype == np.uint8


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding, padding):
    got = convert.pixels(image(BGR[:, :, 0], encoding, 6, padding))
    np.testing.assert_array_equal(got, np.repeat(BGR[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_sixteen_bits_keep_the_upper_eight(encoding, big_endian, padding):
    grey = RNG.integers(0, 65536, (4, 6)).astype(">u2" if big_endian else "<u2")
    got = convert.pixels(image(grey.view(np.uint8).reshape(4, -1), encoding, 6, padding, big_endian))
    np.testing.assert_array_equal(got[:, :, 1], (grey.astype(int) // 256).astype(np.uint8))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_sixteen_bits_of_which_some_are_used_keep_the_upper_eight_of_these(bits):
    grey = RNG.integers(0, 1 << bits, (4, 6)).astype("<u2")
    grey[0, 0] = (1 << bits) - 1
    got = convert.pixels(image(grey.view(np.uint8).reshape(4, -1), "mono16", 6))
    np.testing.assert_array_equal(got[:, :, 1], (grey.astype(int) >> (bits - 8)).astype(np.uint8))


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
    got = convert.pixels(image(rows, encoding, 6, padding))
    np.testing.assert_allclose(got, expected.clip(0, 255), atol=2)


def test_an_image_survives():
    message = convert.image_to_msg(Image(1_700_000_000 * NANOSECONDS + 5, BGR[:, ::-1], "camera"))
    assert (message.height, message.width, message.step, message.encoding) == (4, 6, 18, "bgr8")
    assert convert.from_time(message.header.stamp) == 1_700_000_000 * NANOSECONDS + 5
    got = convert.image_from_msg(sent(message))
    assert (got.stamp, got.frame_id) == (1_700_000_000 * NANOSECONDS + 5, "camera")
    np.testing.assert_array_equal(got.pixels, BGR[:, ::-1])


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 4)])
@pytest.mark.parametrize("grey", [False, True], ids=["BGR", "mono"])
def test_a_compressed_image_survives(suffix, tolerance, grey):
    smooth = cv2.resize(BGR, (60, 40), interpolation=cv2.INTER_LINEAR)
    given_image = smooth[:, :, 0] if grey else smooth
    data = cv2.imencode(suffix, given_image)[1].tobytes()
    message = CompressedImage(format=suffix[1:], data=array.array("B", data))
    message.header.frame_id, message.header.stamp = "camera", convert.to_time(7)
    got = convert.image_from_msg(sent(message))
    assert (got.stamp, got.frame_id) == (7, "camera")
    expected = np.repeat(smooth[:, :, :1], 3, axis=2) if grey else smooth
    assert got.pixels.shape == expected.shape
    assert np.abs(got.pixels.astype(int) - expected.astype(int)).mean() <= tolerance


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\xff\xd8\xff\xe0" + bytes(50)])
def test_a_damaged_compressed_image_is_refused_when_somebody_looks(data):
    image = convert.image_from_msg(CompressedImage(format="jpeg", data=array.array("B", data)))
    with pytest.raises(ValueError, match=rf"'jpeg' \({len(data)} bytes\) cannot be decoded.*JPEG or PNG"):
        image.pixels  # noqa: B018 (it is read now)


def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'bayer_rggb8' is not supported.*bgr8.*yuv422"):
        convert.pixels(image(BGR.reshape(4, -1), "bayer_rggb8", 6))


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
        convert.pixels(message)


def test_the_padding_of_the_last_row_may_be_missing():
    message = image(BGR.reshape(4, -1), "bgr8", 6, padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(convert.pixels(message), BGR)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(list(convert.ENCODINGS)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 40),
    st.binary(max_size=300),
)
def test_any_image_is_understood_or_refused_with_a_value_error(encoding, height, width, step, data):
    message = RosImage(encoding=encoding, height=height, width=width, step=step, data=array.array("B", data))
    with contextlib.suppress(ValueError):
        assert convert.pixels(message).shape == (height, width, 3)
