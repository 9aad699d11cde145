"""What fails in a running node, and what comes faster than it can be worked on: each utterance is answered."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from harness import ORIGIN, SCRIPT, WHISPER, finals, until, utterances
from rclpy.executors import SingleThreadedExecutor

from synctva_ros import msg
from synctva_ros.audio.transcriber import Transcriber
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import NANOSECONDS, Features, Image, Modality, Transcript, TranscriptStatus
from synctva_ros.network.rolling import RollingDialogue
from synctva_ros.ros.convert import image_to_msg, to_msg
from synctva_ros.ros.graph import Graph
from synctva_ros.street.inbox import Inbox


@pytest.fixture(scope="module")
def said():
    """Three utterances, with other ids for as many as are needed."""
    return finals(utterances(3))


class Fails:
    """In place of a method: raises while ``times`` lasts, then does what the method does."""

    def __init__(self, method, times):
        self.method, self.times, self.calls = method, times, 0

    def __get__(self, instance, kind):
        def call(*arguments):
            self.calls += 1
            if self.calls <= self.times:
                raise RuntimeError("out of order")
            return self.method(instance, *arguments)

        return call


class Gate:
    """In place of a method: waits until it is let go on, then does what the method does."""

    def __init__(self, method):
        self.method, self.begun, self.open = method, threading.Event(), threading.Event()

    def __get__(self, instance, kind):
        def call(*arguments):
            self.begun.set()
            assert self.open.wait(120.0)
            return self.method(instance, *arguments)

        return call


def words(utterance):
    return Transcript(utterance.utterance_id, utterance.end, TranscriptStatus.OK, "Good morning.", "en")


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize(
    ("encoder", "missing", "stage"),
    [(AudioEncoder, Modality.AUDIO, "voice"), (TextEncoder, Modality.TEXT, "text")],
    ids=["voice", "text"],
)
def test_an_encoder_that_raises(lab, monkeypatch, said, encoder, missing, stage, always):
    lab.observer.hear("features")
    lab.observer.speak("transcript")
    lab.up("features")
    until(lambda: lab.nodes["features"].has_publisher("transcript"), "who gives words")
    fails = Fails(encoder.encode, 10**9 if always else 1)
    monkeypatch.setattr(encoder, "encode", fails)
    looks = Fails(Inbox.get, 0)
    monkeypatch.setattr(Inbox, "get", looks)
    both = Modality.TEXT | Modality.AUDIO
    for number, utterance in enumerate(said, 1):
        lab.observer.say("transcript", to_msg(words(utterance)))
        lab.observer.say("utterance", to_msg(utterance))
        until(lambda: len(lab.observer.seen["features"]) == number, "the features")  # noqa: B023
        message = lab.observer.seen["features"][-1]
        assert message.utterance_id == utterance.utterance_id
        failed = always or number == 1
        assert message.modalities == (both & ~missing if failed else both)
        assert message.text == "Good morning."
        sentence = lab.diagnosed("features", 1 if failed else 0)
        if failed:
            assert stage in sentence
            assert "RuntimeError: out of order" in sentence
            assert utterance.utterance_id in sentence
    assert fails.calls == len(said), "nothing is tried again and again"
    time.sleep(0.2)
    before = looks.calls
    time.sleep(0.5)
    assert looks.calls - before <= 1, "the thread waits"


def test_a_face_encoder_that_raises_leaves_the_faces(lab, monkeypatch, astronaut):
    lab.observer.hear("faces")
    lab.up("faces")
    fails = Fails(FaceEncoder.encode, 2)
    monkeypatch.setattr(FaceEncoder, "encode", fails)
    for number in range(1, 5):
        # Another light each time: what looks as it did need not be encoded again.
        image = np.clip(astronaut.astype(int) // number + 10, 0, 255).astype(np.uint8)
        lab.observer.say("image", image_to_msg(Image(ORIGIN + number * NANOSECONDS, image)))
        until(lambda: len(lab.observer.seen["faces"]) == number, "the faces")  # noqa: B023
        message = lab.observer.seen["faces"][-1]
        assert message.looked_at
        (face,) = message.faces
        assert bool(face.expression) is (number > 2)
        sentence = lab.diagnosed("faces", 1 if number <= 2 else 0)
        assert ("out of order" in sentence) is (number <= 2)


def test_a_recogniser_that_raises(lab, monkeypatch, said):
    lab.observer.hear("transcript")
    lab.up("transcriber", model=WHISPER)
    monkeypatch.setattr(Transcriber, "transcribe", Fails(Transcriber.transcribe, 1))
    for number, utterance in enumerate(said, 1):
        lab.observer.say("utterance", to_msg(utterance))
        until(lambda: len(lab.observer.seen["transcript"]) == number, "the words")  # noqa: B023
        lab.diagnosed("transcriber", 1 if number == 1 else 0)
    first, *rest = lab.observer.seen["transcript"]
    assert (first.status, first.text) == (msg.Transcript.FAILED, "")
    assert [message.text for message in rest] == [turn["text"] for turn in SCRIPT[1:3]]


def features(number):
    rng, encoder = np.random.default_rng(number), AudioEncoder()
    return Features(
        utterance_id=f"m1_{number}",
        start=ORIGIN + 2 * number * NANOSECONDS,
        end=ORIGIN + (2 * number + 1) * NANOSECONDS,
        audio_vector=rng.standard_normal(encoder.width).astype(np.float32),
        audio_encoder=encoder.name,
    )


def test_a_network_that_raises(lab, monkeypatch):
    lab.observer.hear("emotion")
    lab.up("emotion")
    monkeypatch.setattr(RollingDialogue, "look", Fails(RollingDialogue.look, 1))
    for number in range(3):
        lab.observer.say("features", to_msg(features(number)))
        until(lambda: len(lab.observer.seen["emotion"]) == number + 1, "the emotion")  # noqa: B023
        lab.diagnosed("emotion", 1 if number == 0 else 0)
    first, *rest = lab.observer.seen["emotion"]
    assert (first.modalities, first.status) == (0, msg.Emotion.UNCERTAIN)
    assert all(message.modalities == Modality.AUDIO for message in rest)
    assert [message.turn for message in lab.observer.seen["emotion"]] == [0, 1, 2]


def utterance_messages(said):
    return "utterance", [
        to_msg(replace(said[0], utterance_id=f"m1_{number}", start=said[0].start + number, end=said[0].end + number))
        for number in range(6)
    ]


def features_messages(said):
    return "features", [to_msg(features(number)) for number in range(6)]


def has_words(message):
    return message.status == msg.Transcript.OK


def is_of_something(message):
    return message.modalities != 0


@pytest.mark.parametrize(
    ("name", "where", "method", "messages", "answers", "is_worked_on", "values"),
    [
        (
            "transcriber",
            Transcriber,
            "transcribe",
            utterance_messages,
            "transcript",
            has_words,
            {"model": WHISPER},
        ),
        (
            "features",
            AudioEncoder,
            "encode",
            utterance_messages,
            "features",
            is_of_something,
            {},
        ),
        ("emotion", RollingDialogue, "look", features_messages, "emotion", is_of_something, {}),
    ],
    ids=["transcriber", "features", "emotion"],
)
def test_when_more_wait_than_there_is_room_for_each_is_answered_in_order(
    lab, monkeypatch, said, name, where, method, messages, answers, is_worked_on, values
):
    lab.observer.hear(answers)
    lab.up(name, queue_size=2, **values)
    gate = Gate(getattr(where, method))
    monkeypatch.setattr(where, method, gate)
    topic, sent = messages(said)
    try:
        lab.observer.say(topic, sent[0])
        until(gate.begun.is_set, "the work")
        for message in sent[1:]:
            lab.observer.say(topic, message)
        until(lambda: lab.state(name)[2]["shed"] == 3, "what is too much")
        assert lab.observer.seen[answers] == []
        gate.open.set()
        until(lambda: len(lab.observer.seen[answers]) == len(sent), "the answers")
    finally:
        gate.open.set()
    found = lab.observer.seen[answers]
    assert [message.utterance_id for message in found] == [message.utterance_id for message in sent]
    assert [is_worked_on(message) for message in found] == [True] * 3 + [False] * 3
    assert lab.diagnosed(name, 2) == "utterances come faster than they are worked on"
    assert lab.observer.diagnostics[name][1]["shed"] == "3"


def test_nothing_spins_any_more_when_the_executors_are_shut_down(monkeypatch):
    """Rclpy's shutdown takes from under a thread that spins what it needs; now and then that was a traceback."""
    spinning = []
    shutdown = SingleThreadedExecutor.shutdown

    def watched(executor, *given):
        spinning.extend(thread.name for thread in threading.enumerate() if thread.name.endswith(" executor"))
        return shutdown(executor, *given)

    monkeypatch.setattr(SingleThreadedExecutor, "shutdown", watched)
    graph = Graph({"utterance": {"segmenter": "none", "speaker_encoder": ""}}, None, lambda emotion: None)
    called = threading.Event()
    try:
        graph.start()
        graph.nodes["utterance"].create_timer(0.01, called.set)
        until(called.is_set, "a callback")
        assert any(thread.name == "utterance executor" for thread in threading.enumerate())
    finally:
        graph.stop()
    assert spinning == []
