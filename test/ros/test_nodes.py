"""Each node alone over DDS: a message in, the right one out; silent when deactivated, and again when activated."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from harness import DEMO, ORIGIN, SCRIPT, WHISPER, dialogue_chunks, finals, until, utterances

from synctva_ros import msg
from synctva_ros.config import NODES
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.events import NANOSECONDS, Face, Faces, Features, Image, Modality, Transcript, TranscriptStatus
from synctva_ros.ros.convert import from_time, image_to_msg, pixels, to_msg
from synctva_ros.sources import microphone

SECOND = NANOSECONDS


def own_time(stamp):
    """Whether a stamp is of the wall clock; what is played fast is ahead of it."""
    return abs(time.time_ns() - from_time(stamp)) < 600 * SECOND


def is_silent(lab, name):
    """Whether an inactive node has no publisher, subscription or thread left that could say something."""
    node = lab.nodes[name]
    assert {publisher.topic_name for publisher in node.publishers} <= {
        "/parameter_events",
        "/rosout",
        "/diagnostics",
        f"/{name}/transition_event",
    }
    assert not list(node.subscriptions)
    return not any(thread.name == name for thread in threading.enumerate())


class StubSoundDevice:
    """A device that gives the numbers of its buffers as samples, taken 0.1 s before they come."""

    PortAudioError = OSError
    _initialized = 0

    def _initialize(self):
        self._initialized = 1

    def query_devices(self, device):
        return {"name": "stub"}

    def InputStream(self, *, device, samplerate, channels, blocksize, dtype, callback):
        return StubStream(blocksize, channels, callback)


class StubStream:
    device, active = 0, True

    def __init__(self, blocksize, channels, callback):
        self._buffer = np.zeros((blocksize, channels), np.float32)
        self._callback, self._end = callback, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._give, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _give(self):
        number = 0
        while not self._end.wait(0.01):
            self._buffer[:] = number
            when = SimpleNamespace(currentTime=100.0, inputBufferAdcTime=99.9)
            self._callback(self._buffer, len(self._buffer), when, SimpleNamespace(input_overflow=False))
            number += 1


def test_the_microphone(lab, monkeypatch):
    monkeypatch.setattr(microphone, "load_sounddevice", StubSoundDevice)
    lab.observer.hear("audio")
    heard = lab.observer.seen["audio"]
    lab.add("microphone", channels=2, frame_id="ear")
    lab.change("microphone", "configure")
    for number in (1, 2):
        lab.change("microphone", "activate")
        until(lambda: len(heard) >= 10 * number)  # noqa: B023
        assert lab.state("microphone")[:2] == (0, "listening")
        lab.change("microphone", "deactivate")
        until(lambda: heard[-1].end_of_stream, "the end of the stream")
        assert is_silent(lab, "microphone")
        for message in heard:
            assert message.header.frame_id == "ear"
            assert own_time(message.header.stamp)
            assert (message.sample_rate, message.channels) == (16_000, 2)
        chunks = [message for message in heard if message.stream_id == heard[-1].stream_id]
        assert len({message.stream_id for message in heard}) == number
        assert [message.end_of_stream for message in chunks] == [False] * (len(chunks) - 1) + [True]
        assert len(chunks[0].samples) == 2 * 480
        numbers = [message.sequence for message in chunks]
        assert numbers == list(range(numbers[0], numbers[0] + len(chunks)))
        assert [set(message.samples) for message in chunks[:-1]] == [{float(n)} for n in numbers[:-1]]


def test_the_camera(lab, astronaut, tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "face.png"), astronaut)
    lab.observer.hear("image")
    lab.add("camera", device=str(tmp_path / "face.png"), frame_id="eye")
    lab.change("camera", "configure")
    for _ in range(2):
        lab.change("camera", "activate")
        before = len(lab.observer.seen["image"])
        until(lambda: len(lab.observer.seen["image"]) > before + 2)  # noqa: B023
        assert lab.state("camera")[:2] == (0, "watching")
        lab.change("camera", "deactivate")
        assert is_silent(lab, "camera")
    stamps = [from_time(message.header.stamp) for message in lab.observer.seen["image"]]
    assert stamps == sorted(set(stamps))
    for message in lab.observer.seen["image"]:
        assert message.header.frame_id == "eye"
        assert own_time(message.header.stamp)
        np.testing.assert_array_equal(pixels(message), astronaut)


def test_a_device_that_gives_nothing_says_why(lab):
    lab.up("camera", device="no-such-camera")
    why = "the device gives no images: camera 'no-such-camera' cannot be opened"
    until(lambda: lab.state("camera")[:2] == (2, why), why)
    assert lab.diagnosed("camera", 2) == why


@pytest.mark.parametrize("realtime", [False, True])
def test_media(lab, realtime, tmp_path):
    av = pytest.importorskip("av")
    path, rate = tmp_path / "noise.wav", 16_000
    noise = np.random.default_rng(0).integers(-999, 999, rate // 2, np.int16)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise[None], format="s16", layout="mono")
        frame.sample_rate = rate
        out.mux([*stream.encode(frame), *stream.encode()])
    lab.observer.hear("audio")
    heard = lab.observer.seen["audio"]
    node = lab.add("media", file=str(path), realtime=realtime, frame_id="film")
    lab.change("media", "configure")
    for number in (1, 2):
        lab.change("media", "activate")
        until(node.ended.is_set, "the end of the file")
        until(lambda: sum(message.end_of_stream for message in heard) == number, "the end of the stream")  # noqa: B023
        assert lab.state("media")[:2] == (0, "ended")
        lab.change("media", "deactivate")
        assert is_silent(lab, "media")
        chunks = [message for message in heard if message.stream_id == heard[-1].stream_id]
        assert len({message.stream_id for message in heard}) == number
        assert [message.sequence for message in chunks] == list(range(len(chunks)))
        assert {message.header.frame_id for message in chunks} == {"film"}
        assert all(own_time(message.header.stamp) for message in chunks)
        samples = np.concatenate([np.asarray(message.samples) for message in chunks])
        np.testing.assert_allclose(samples, noise / 32768.0, atol=1e-4)
        steps = np.diff([from_time(message.header.stamp) for message in chunks])
        np.testing.assert_allclose(steps, [len(message.samples) / rate * SECOND for message in chunks[:-1]], atol=2)


def test_utterance(lab):
    lab.observer.hear("utterance")
    lab.observer.hear("utterance/partial")
    lab.observer.speak("audio")
    lab.add("utterance", speaker_id="anna")
    lab.change("utterance", "configure")
    whole, parts = lab.observer.seen["utterance"], lab.observer.seen["utterance/partial"]
    for number in (1, 2):
        lab.change("utterance", "activate")
        for chunk in dialogue_chunks(1, frame_id="ear"):
            lab.observer.say("audio", to_msg(chunk))
        until(lambda: len(whole) == number, "the utterance")  # noqa: B023
        lab.change("utterance", "deactivate")
        assert is_silent(lab, "utterance")
        message = whole[-1]
        assert (from_time(message.header.stamp) - ORIGIN) / 1e9 == pytest.approx(SCRIPT[0]["end"], abs=0.1)
        assert (from_time(message.start) - ORIGIN) / 1e9 == pytest.approx(SCRIPT[0]["start"], abs=0.1)
        assert message.header.frame_id == "ear"
        assert message.speaker_id == "anna"
        assert message.ended_by == msg.Utterance.PAUSE
        assert message.utterance_id.startswith(message.stream_id)
        ahead = [part for part in parts if part.utterance_id == message.utterance_id]
        until(lambda: len(ahead) >= 2, "what is not over")  # noqa: B023
        assert {part.ended_by for part in ahead} == {msg.Utterance.SPEAKING, msg.Utterance.PAUSE}
        assert all(part.header.frame_id == "ear" for part in ahead)
        assert ahead[-1].samples == message.samples
    assert whole[0].utterance_id != whole[1].utterance_id


def test_the_transcriber(lab):
    lab.observer.hear("transcript")
    lab.observer.hear("transcript/partial")
    said = utterances(1)
    pause, (final,) = next(event for event in said if not event.is_final and event.ended_by == 0), finals(said)
    lab.add("transcriber", model=WHISPER)
    lab.change("transcriber", "configure")
    for number in (1, 2):
        lab.change("transcriber", "activate")
        if number == 1:
            lab.observer.say("utterance/partial", to_msg(pause))
            until(lambda: lab.observer.seen["transcript/partial"], "the words ahead")
        lab.observer.say("utterance", to_msg(final))
        until(lambda: len(lab.observer.seen["transcript"]) == number, "the words")  # noqa: B023
        lab.change("transcriber", "deactivate")
        assert is_silent(lab, "transcriber")
    for message in (*lab.observer.seen["transcript/partial"], *lab.observer.seen["transcript"]):
        assert message.text == SCRIPT[0]["text"]
        assert message.status == msg.Transcript.OK
        assert message.utterance_id == final.utterance_id
        assert from_time(message.header.stamp) == final.end
        assert message.header.frame_id == "mic"
        assert message.model_id == "whisper_demo"


def test_faces(lab, astronaut):
    lab.observer.hear("faces")
    lab.add("faces")
    lab.change("faces", "configure")
    for number in (1, 2):
        lab.change("faces", "activate")
        lab.observer.say("image", image_to_msg(Image(ORIGIN + number * SECOND, astronaut, "eye")))
        until(lambda: len(lab.observer.seen["faces"]) == number, "the faces")  # noqa: B023
        assert lab.state("faces")[:2] == (0, "1 face in view")
        lab.change("faces", "deactivate")
        assert is_silent(lab, "faces")
    for number, message in enumerate(lab.observer.seen["faces"], 1):
        assert from_time(message.header.stamp) == ORIGIN + number * SECOND
        assert message.header.frame_id == "eye"
        assert message.looked_at
        assert (message.height, message.width) == astronaut.shape[:2]
        (face,) = message.faces
        assert face.face_id[0].isalpha()
        assert len(face.expression) == FaceEncoder().width
        assert message.encoder == FaceEncoder().name


def test_features(lab):
    lab.observer.hear("features")
    lab.observer.hear("features/partial")
    (said,) = finals(utterances(1))
    words = Transcript(said.utterance_id, said.end, TranscriptStatus.OK, "Good morning.", "en", frame_id="mic")
    expression = np.arange(FaceEncoder().width, dtype=np.float32)
    face = Face("f7", 0.4, 0.2, 0.1, 0.1, 0.9, 0.8, expression=expression)
    report = Faces((said.start + said.end) // 2, True, (face,), 480, 640, "faces-1", 0.01, "eye")
    lab.add("features")
    lab.change("features", "configure")
    for topic in ("transcript", "faces"):
        lab.observer.speak(topic)
    for number in (1, 2):
        lab.change("features", "activate")
        report = replace(report, stamp=report.stamp + number)  # remembered from one life to the next
        lab.observer.say("faces", to_msg(report))
        lab.until_seen(report.stamp)
        until(lambda: lab.nodes["features"].has_publisher("transcript"), "who gives words")
        lab.observer.say("utterance", to_msg(said))
        lab.observer.say("transcript", to_msg(words))
        until(lambda: len(lab.observer.seen["features"]) == number, "the features")  # noqa: B023
        lab.change("features", "deactivate")
        assert is_silent(lab, "features")
    for message in lab.observer.seen["features"]:
        assert message.modalities == Modality.TEXT | Modality.AUDIO | Modality.VISION
        assert from_time(message.header.stamp) == said.end
        assert from_time(message.start) == said.start
        assert message.header.frame_id == "mic"
        assert message.utterance_id == said.utterance_id
        assert (message.stream_id, message.stream_start, message.stream_end) == (
            said.stream_id,
            said.stream_start,
            said.stream_end,
        )
        assert message.text == "Good morning."
        assert (message.face_id, message.vision_encoder) == ("f7", "faces-1")
        assert message.frames_seen == message.frames_with_face > 0
        np.testing.assert_allclose(message.vision_vector, expression)
        np.testing.assert_allclose(
            message.audio_vector, AudioEncoder().encode(said.speech, said.sample_rate), rtol=1e-4, atol=1e-4
        )
    assert lab.observer.seen["features/partial"] == []


def test_emotion(lab):
    lab.observer.hear("emotion")
    lab.observer.hear("emotion/labels")
    encoder = AudioEncoder()
    features = Features(
        utterance_id="m1_0",
        start=ORIGIN,
        end=ORIGIN + SECOND,
        audio_vector=np.random.default_rng(0).standard_normal(encoder.width).astype(np.float32),
        audio_encoder=encoder.name,
        stream_id="m1",
        stream_start=1.0,
        stream_end=2.0,
        speaker_id="anna",
        face_id="f1",
        person_id="p1",
        text="Good morning.",
        frame_id="mic",
        durations={"turns": 0.5, "fusion": 0.25},
        work={"audio": 0.01},
    )
    lab.add("emotion")
    lab.change("emotion", "configure")
    for number in (1, 2):
        lab.change("emotion", "activate")
        until(lambda: len(lab.observer.seen["emotion/labels"]) >= number, "the table of labels")  # noqa: B023
        lab.observer.say("features", to_msg(features))
        until(lambda: len(lab.observer.seen["emotion"]) == number, "the emotion")  # noqa: B023
        lab.change("emotion", "deactivate")
        assert is_silent(lab, "emotion")
    for turn, message in enumerate(lab.observer.seen["emotion"]):
        assert from_time(message.header.stamp) == features.end
        assert from_time(message.start) == features.start
        assert message.header.frame_id == "mic"
        for name in ("utterance_id", "stream_id", "stream_start", "stream_end", "text"):
            assert getattr(message, name) == getattr(features, name), name
        assert (message.speaker_id, message.face_id, message.person_id) == ("anna", "f1", "p1")
        assert message.turn == turn
        assert message.modalities == Modality.AUDIO
        assert list(message.stages) == ["turns", "fusion", "dialogue", "total"]
        assert list(message.durations[:2]) == [0.5, 0.25]
        assert list(message.work) == ["audio", "network"]
        assert list(message.labels) == list(lab.observer.seen["emotion/labels"][0].labels)
        assert message.status in (msg.Emotion.FINAL, msg.Emotion.UNCERTAIN)


def test_there_is_a_test_for_each_node():
    tests = [name for name in vars(sys.modules[__name__]) if name.startswith("test_")]
    assert all(any(test in (f"test_{node}", f"test_the_{node}") for test in tests) for node in NODES)


@pytest.mark.parametrize("fast", [True, False])
def test_the_second_play_of_a_file_gives_its_utterances_again(lab, tmp_path, fast):
    """Nothing is cleaned up in between, neither at the source nor at the end-pointer."""
    av = pytest.importorskip("av")
    path = tmp_path / "two_turns.wav"
    with av.open(str(DEMO / "dialogue.flac")) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=source.streams.audio[0].rate, layout="mono")
        for frame in source.decode(audio=0):
            if frame.time > SCRIPT[1]["end"] + 0.2:
                break
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    lab.observer.hear("utterance")
    lab.up("utterance")
    node = lab.add("media", file=str(path), realtime=not fast)
    lab.change("media", "configure")
    for number in (1, 2):
        lab.change("media", "activate")
        assert fast or not node.ended.is_set(), "it plays for seconds"
        until(node.ended.is_set, "the end of the file")
        until(lambda: len(lab.observer.seen["utterance"]) == 2 * number, "the utterances")  # noqa: B023
        lab.change("media", "deactivate")
    first, second = lab.observer.seen["utterance"][:2], lab.observer.seen["utterance"][2:]
    for one, other in zip(first, second, strict=True):
        assert (one.stream_start, one.stream_end) == (other.stream_start, other.stream_end)
        assert one.samples == other.samples
        assert one.stream_id != other.stream_id
        assert from_time(one.header.stamp) < from_time(other.header.stamp)
    assert len({message.utterance_id for message in (*first, *second)}) == 4
    assert len({message.stream_id for message in (*first, *second)}) == 2
