"""The same input gives the same answers from a file and from the running graph, whether it waits or not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import av
from harness import DEMO, ORIGIN, ROOT, SCRIPT, WHISPER, Observer, dialogue_chunks, until

from synctva_ros import msg
from synctva_ros.apps.recognize import Recognizer
from synctva_ros.config import Dialogue, plan
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.events import AudioChunk, Features, Modality
from synctva_ros.network.rolling import RollingDialogue
from synctva_ros.ros.convert import from_time, to_msg
from synctva_ros.ros.graph import Graph
from synctva_ros.sources.media import MediaFile

RATE = 16_000
#: What is the same however a file is played.
EQUAL = ("label", "labels", "status", "text", "turn", "modalities", "stream_start", "stream_end", "model_id")
CLOSE = ("probabilities", "confidence", "contributions", "context_weights")


def recognized(path, recognizer=None):
    """The answers of ``recognize``."""
    return list((recognizer or Recognizer(overrides={"transcriber": {"model": WHISPER}})).recognize(path))


def played(path, *, fast):
    """The final answers of the graph, what the observer saw of them, and how many images were looked at too late."""
    nodes = plan(media=str(path), whisper="demo", fast=fast)
    answers = []
    graph = Graph(nodes, ROOT / "config/perception.yaml", lambda emotion: emotion.is_final and answers.append(emotion))
    observer = Observer("emotion")
    try:
        graph.executor.add_node(observer)
        graph.start()
        until(lambda: graph.finished, "the end of the graph", seconds=240.0)
        until(lambda: len(finals(observer)) == len(answers), "an answer")
        values = graph.nodes["faces"].diagnose()[2]
        missed = values["skipped"] + graph.nodes["features"].diagnose()[2]["fusion: without words in time"]
    finally:
        graph.stop()
        observer.destroy_node()
    return [answer.as_json() for answer in answers], finals(observer), missed


def finals(observer):
    """Messages that are not provisional, each with the time when it came [ns]."""
    both = zip(observer.seen["emotion"], observer.received["emotion"], strict=False)
    return [(message, came) for message, came in both if message.status != msg.Emotion.PROVISIONAL]


def assert_same(published, expected):
    assert len(published) == len(expected) > 0
    ids = [
        {answer["utterance_id"]: number for number, answer in enumerate(answers)} for answers in (published, expected)
    ]
    for got, wanted in zip(published, expected, strict=True):
        for name in EQUAL:
            assert got[name] == wanted[name], name
        for name in CLOSE:
            np.testing.assert_allclose(got[name], wanted[name], atol=1e-5, err_msg=name)
        assert bool(got["face_id"]) == bool(wanted["face_id"])
        # The ids differ, but they name the same turns.
        assert [ids[0][one] for one in got["context_ids"]] == [ids[1][one] for one in wanted["context_ids"]]
        assert list(got["work"]) == list(wanted["work"])


def assert_durations_add_up(messages):
    """Each stage's share, on the clock of the stamps, is of the time between the end of speech and the answer."""
    for message, came in messages:
        durations = dict(zip(message.stages, message.durations, strict=True))
        total = durations.pop("total")
        assert list(durations) == ["turns", "fusion", "dialogue"]
        assert math.isclose(sum(durations.values()), total, abs_tol=1e-4)
        age = (came - from_time(message.header.stamp)) / 1e9
        assert total <= age + 1e-3, "nobody receives an answer before it was given"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two turns, spoken by the same face, then one off screen."""
    data = pytest.importorskip("skimage.data", reason="scikit-image, which ships an image of a face, is not installed")
    face = np.ascontiguousarray(data.astronaut()[0:240, 95:335, ::-1])
    sound = np.concatenate(
        [item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0) if isinstance(item, AudioChunk)]
    )[: round((SCRIPT[2]["end"] + 0.8) * RATE), 0]
    path = tmp_path_factory.mktemp("clip") / "talk.mp4"
    shown = (SCRIPT[1]["end"] + SCRIPT[2]["start"]) / 2
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=5, width=240, height=240, pix_fmt="yuv420p")
        video.bit_rate = 1_000_000
        audio = out.add_stream("aac", rate=RATE, layout="mono")
        packets = []
        for number in range(5 * len(sound) // RATE):
            image = face if number / 5 < shown else np.full_like(face, 128)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            packets += video.encode(frame)
        packets += video.encode()
        for first in range(0, len(sound), 1024):
            part = av.AudioFrame.from_ndarray(sound[None, first : first + 1024].copy(), format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = RATE, first, Fraction(1, RATE)
            packets += audio.encode(part)
        packets += audio.encode()
        for packet in packets:
            out.mux(packet)
    return path


def test_the_dialogue_played_fast():
    published, messages, _ = played(DEMO / "dialogue.flac", fast=True)
    assert [answer["text"] for answer in published] == [turn["text"] for turn in SCRIPT]
    assert_same(published, recognized(DEMO / "dialogue.flac"))
    assert_durations_add_up(messages)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "in real time"])
def test_a_clip_with_a_face(clip, fast):
    expected = recognized(clip)
    assert [bool(answer["modalities"] & Modality.VISION) for answer in expected] == [True, True, False]
    assert [answer["text"] for answer in expected] == [turn["text"] for turn in SCRIPT[:3]]
    for _ in range(3):
        published, messages, missed = played(clip, fast=fast)
        if not missed:  # else the machine was too busy with something else to follow in real time
            break
    assert_same(published, expected)
    assert_durations_add_up(messages)
    if fast:
        return
    for message, came in messages:
        durations = dict(zip(message.stages, message.durations, strict=True))
        assert all(share > -1e-3 for share in durations.values())
        assert 0.5 <= durations["turns"] <= durations["total"]
        assert durations["total"] <= (came - from_time(message.header.stamp)) / 1e9 + 1e-3


def test_from_which_confidence_on_it_is_certain_is_the_same_everywhere(lab, monkeypatch, tmp_path):
    """The network's answers are replaced: one is just below what ``config`` says, the other just above."""
    threshold = Dialogue().uncertain_below
    wanted = {threshold - 1e-3: "UNCERTAIN", threshold + 1e-3: "FINAL"}
    take, confidences = RollingDialogue.take, []

    def just_about(self, ahead):
        estimate = take(self, ahead)
        confidence = confidences.pop(0)
        rest = (1.0 - confidence) / (len(estimate.labels) - 1)
        probabilities = np.full(len(estimate.labels), rest, np.float32)
        probabilities[0] = confidence
        return replace(estimate, probabilities=probabilities)

    monkeypatch.setattr(RollingDialogue, "take", just_about)
    recognizer = Recognizer("a")
    with av.open(str(tmp_path / "one.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        chunks = [chunk.samples[:, 0] for chunk in dialogue_chunks(1)]
        sound = (np.concatenate(chunks) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        out.mux([*stream.encode(frame), *stream.encode()])
    confidences[:] = list(wanted)
    found = [answer["status"] for _ in wanted for answer in recognizer.recognize(tmp_path / "one.wav")]
    assert found == list(wanted.values())

    lab.observer.hear("emotion")
    lab.up("emotion")
    encoder = AudioEncoder()
    vector = np.ones(encoder.width, np.float32)
    confidences[:] = list(wanted)
    for number in range(len(wanted)):
        features = Features(f"m_{number}", ORIGIN, ORIGIN + 1, audio_vector=vector, audio_encoder=encoder.name)
        lab.observer.say("features", to_msg(features))
        until(lambda: len(lab.observer.seen["emotion"]) > number, "the emotion")  # noqa: B023
    statuses = {msg.Emotion.UNCERTAIN: "UNCERTAIN", msg.Emotion.FINAL: "FINAL"}
    assert [statuses[message.status] for message in lab.observer.seen["emotion"]] == list(wanted.values())


def test_a_line_of_json_is_the_message():
    """What ``recognize`` writes has the same fields as what comes on the topic."""
    fields = list(msg.Emotion.get_fields_and_field_types())
    (first, *_) = recognized(DEMO / "dialogue.flac", Recognizer("a"))
    assert list(first) == ["file", *fields]
    assert json.loads(json.dumps(first)) == first
