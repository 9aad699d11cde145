"""Parameters that are set while a node works: live ones take effect, others say when they will, wrong ones why not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from harness import ORIGIN, WHISPER, dialogue_chunks, finals, until, utterances
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from synctva_ros import msg
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.events import NANOSECONDS, Face, Faces, Features, Image
from synctva_ros.ros.convert import image_to_msg, to_msg

LATER = "takes effect when the node is configured again (deactivate, cleanup, configure)"


def put(lab, node, *, atomically=False, **values):
    """Set parameters over DDS as ``ros2 param set`` does; return the results."""
    kind, name = (SetParametersAtomically, "_atomically") if atomically else (SetParameters, "")
    client = lab.observer.create_client(kind, f"{node}/set_parameters{name}")
    try:
        assert client.wait_for_service(timeout_sec=60.0)
        parameters = [Parameter(key, value=value).to_parameter_msg() for key, value in values.items()]
        future = client.call_async(kind.Request(parameters=parameters))
        until(future.done, "the result")
        return [future.result().result] if atomically else list(future.result().results)
    finally:
        lab.observer.destroy_client(client)


def accepted(lab, node, **values):
    for result in put(lab, node, **values):
        assert result.successful, result.reason
        assert result.reason == ""


def test_the_hangover(lab):
    lab.observer.hear("utterance")
    lab.up("utterance", segmenter="none")  # else the other person ends the turn, whatever the hang-over is
    found = lab.observer.seen["utterance"]
    for number, hangover in enumerate((0.3, 1.2), 1):
        accepted(lab, "utterance", hangover=hangover)
        for chunk in dialogue_chunks(2):
            lab.observer.say("audio", to_msg(replace(chunk, stream_id=f"s{number}")))
        until(lambda: len(found) == 2 * number, "the utterances")  # noqa: B023
    sequences = [(message.ended_by, message.last_sequence) for message in found]
    assert [ended_by for ended_by, _ in sequences[:2]] == [msg.Utterance.PAUSE] * 2
    accepted(lab, "utterance", hangover=3.0)  # longer than the pause between the two turns
    for chunk in dialogue_chunks(2):
        lab.observer.say("audio", to_msg(replace(chunk, stream_id="s3")))
    until(lambda: len(found) == 5, "the utterance")
    assert found[-1].stream_end - found[-1].stream_start > 5.0


def test_the_place_that_is_attended_to(lab):
    (said,) = finals(utterances(1))
    width = 7
    large, small = (
        Face(name, x, 0.2, side, side, 0.9, 0.9, expression=np.full(width, side, np.float32))
        for name, x, side in (("large", 0.1, 0.4), ("small", 0.7, 0.1))
    )
    lab.observer.hear("features")
    lab.up("features", text_encoder="")
    for before in (1.0, 0.5):
        report = Faces(said.end - round(before * NANOSECONDS), True, (large, small), 480, 640, "e")
        lab.observer.say("faces", to_msg(report))
        lab.until_seen(report.stamp)
    after = Faces(said.end + 1, True, (large, small), 480, 640, "e")
    lab.observer.say("faces", to_msg(after))
    lab.until_seen(after.stamp)

    def attended(name):
        seen = lab.observer.seen["features"]
        before = len(seen)
        lab.observer.say("utterance", to_msg(replace(said, utterance_id=f"m_{before}")))
        until(lambda: len(seen) > before, "the features")
        assert seen[-1].face_id == name

    attended("large")
    for values, expected in (
        ({"attend_x": 0.75}, "small"),  # whatever its height
        ({"attend_x": -1.0}, "large"),
        ({"attend_x": 0.75, "attend_y": 0.25}, "small"),
        ({"attend_x": -1.0, "attend_y": -1.0}, "large"),
    ):
        (result,) = put(lab, "features", atomically=True, **values)
        assert (result.successful, result.reason) == (True, "")
        attended(expected)


def test_the_rate_of_images(lab, astronaut):
    lab.observer.hear("faces")
    lab.up("faces", face_detector="whole-image", face_rate=10.0)
    seen = lab.observer.seen["faces"]

    def looked_at(first):
        """Ten images, 50 ms apart."""
        for number in range(10):
            before = len(seen)
            stamp = ORIGIN + first * NANOSECONDS + number * NANOSECONDS // 20
            lab.observer.say("image", image_to_msg(Image(stamp, astronaut)))
            until(lambda: len(seen) > before, "the faces")  # noqa: B023
        return [message.looked_at for message in seen[-10:]]

    assert looked_at(0) == [True, False] * 5
    accepted(lab, "faces", face_rate=20.0)
    assert looked_at(10) == [True] * 10
    accepted(lab, "faces", face_rate=1.0)
    assert looked_at(20) == [True] + [False] * 9


def test_from_which_confidence_on_it_is_certain(lab):
    encoder = AudioEncoder()
    lab.observer.hear("emotion")
    lab.up("emotion")
    for number, (threshold, status) in enumerate(
        ((1.0, msg.Emotion.UNCERTAIN), (0.0, msg.Emotion.FINAL), (1.0, msg.Emotion.UNCERTAIN))
    ):
        accepted(lab, "emotion", uncertain_below=threshold)
        vector = np.random.default_rng(number).standard_normal(encoder.width).astype(np.float32)
        end = ORIGIN + number * NANOSECONDS
        lab.observer.say(
            "features",
            to_msg(Features(f"m_{number}", end - 1, end, audio_vector=vector, audio_encoder=encoder.name)),
        )
        until(lambda: len(lab.observer.seen["emotion"]) > number, "the emotion")  # noqa: B023
        message = lab.observer.seen["emotion"][-1]
        assert message.status == status
        assert message.confidence < 1.0


@pytest.mark.parametrize(
    ("node", "given", "values"),
    [
        ("transcriber", {"model": WHISPER}, {"model": "tiny.en", "threads": 2}),
        ("faces", {}, {"face_detector": "haar", "vision": False}),
        ("features", {}, {"text_weights": "", "queue_size": 3}),
        ("emotion", {}, {"weights": "elsewhere", "max_turns": 5}),
    ],
)
def test_others_are_taken_and_say_when_they_count(lab, node, given, values):
    running = lab.up(node, **given)
    before = vars(running.config).copy()
    for name, result in zip(values, put(lab, node, **values), strict=True):
        assert result.successful
        assert name in result.reason
        assert LATER in result.reason
    assert vars(running.config) == before
    for name, value in values.items():
        assert running.get_parameter(name).value == value
    if node == "features":  # and then they do count
        lab.change(node, "deactivate", "cleanup", "configure", "activate")
        assert running.config.queue_size == 3


@pytest.mark.parametrize(
    ("node", "name", "value", "part"),
    [
        ("utterance", "hangover", 99.0, "parameter 'hangover': 99.0 is not from 0.1 to 3"),
        ("utterance", "hangover", "long", "parameter 'hangover': 'long' is not of type float"),
        ("utterance", "hangover", 1, "write 1.0"),
        ("utterance", "stop_ratio", 0.9, "must not be above start_ratio (0.7)"),
        ("utterance", "aggressiveness", 7, "7 is not from 0 to 3"),
        ("utterance", "no_such_parameter", 1.0, "there is no parameter 'no_such_parameter'"),
    ],
)
def test_what_is_not_allowed_is_refused_with_a_sentence(lab, node, name, value, part):
    running = lab.up(node)
    before = vars(running.config).copy()
    (result,) = put(lab, node, **{name: value})
    assert not result.successful
    assert part in result.reason
    assert len(result.reason) > 20
    assert vars(running.config) == before
