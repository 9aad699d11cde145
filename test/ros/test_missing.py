"""What is missing, or comes in a way that cannot be used, is said on /diagnostics and once in the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from harness import dialogue_chunks, until  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from synctva_ros import msg  # noqa: E402
from synctva_ros.events import NANOSECONDS, Image  # noqa: E402
from synctva_ros.ros import stages  # noqa: E402
from synctva_ros.ros.convert import from_time, image_to_msg, to_msg  # noqa: E402
from synctva_ros.street.stage import State  # noqa: E402


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 0.0)


def test_a_topic_without_a_publisher(lab):
    lab.up("utterance")
    assert lab.diagnosed("utterance", 1) == (
        "nobody publishes synctva_ros/msg/AudioChunk on /audio: start a microphone, or remap audio to the topic of "
        "your driver"
    )
    lab.observer.speak("audio")
    assert lab.diagnosed("utterance", 0) == "silence"


def test_before_the_others_had_time_to_come_up_nothing_is_missing(lab, monkeypatch):
    monkeypatch.setattr(stages, "PATIENCE", 1000.0)
    lab.up("utterance")
    assert lab.state("utterance")[:2] == (0, "silence")


def test_what_the_street_can_do_without_is_said_but_no_trouble(lab):
    lab.observer.speak("utterance")
    lab.up("features", text_encoder="")
    until(lambda: lab.nodes["features"]._lacking, "what is missing")
    missing = {key: state.level for key, state in lab.nodes["features"]._lacking.items()}
    assert missing == {"/transcript": 0, "/faces": 0}
    assert lab.state("features")[0] == 0


def test_trouble_and_what_is_none_may_follow_each_other(lab):
    """rclpy remembers the severity of each line that logs, and refuses another one."""
    node = lab.up("features", text_encoder="")
    for level in (1, 0, 1):
        lacking = {f"key {level}": State(level, f"level {level}")}
        node._tell(lacking)
        assert node._lacking == lacking


def test_a_topic_of_another_type(lab):
    context = rclpy.Context()  # as another process: in one, a topic has one type
    rclpy.init(context=context)
    driver = Node("driver", context=context)
    driver.create_publisher(String, "audio", 10)
    try:
        node = lab.up("utterance")
        until(lambda: "carries" in node.diagnose()[1], "the other type")
        assert node.diagnose()[:2] == (
            1,
            "/audio carries std_msgs/msg/String, not synctva_ros/msg/AudioChunk: remap it to the topic that is meant",
        )
    finally:
        driver.destroy_node()
        rclpy.shutdown(context=context)


def test_it_is_logged_when_it_begins_and_when_it_ends(lab, monkeypatch):
    node = lab.up("utterance")
    said = []
    monkeypatch.setattr(node, "get_logger", lambda: Said(said))
    node._lacking = {}
    for _ in range(3):
        node.diagnose()
    assert [(level, sentence[:20]) for level, sentence in said] == [("warning", "nobody publishes syn")]
    lab.observer.speak("audio")
    until(lambda: not node._missing_topics(), "the publisher")
    node.diagnose()
    assert (said[-1][0], said[-1][1][:24]) == ("info", "over: nobody publishes s")


class Said:
    """A log that keeps what is said."""

    def __init__(self, said):
        self._said = said

    def __getattr__(self, level):
        return lambda sentence, **_: self._said.append((level, sentence))


def test_sound_without_stamps_is_stamped_when_it_comes(lab):
    lab.observer.hear("utterance")
    node = lab.up("utterance")
    begun = node.now()
    for chunk in dialogue_chunks(1):
        lab.observer.say("audio", to_msg(replace(chunk, stamp=0)))
    until(lambda: lab.observer.seen["utterance"], "the utterance")
    assert begun - NANOSECONDS <= from_time(lab.observer.seen["utterance"][0].header.stamp) <= node.now()


def test_images_without_stamps_are_stamped_when_they_come(lab, astronaut):
    lab.observer.hear("faces")
    node = lab.up("faces", face_rate=120.0)
    begun = node.now()
    lab.observer.say("image", image_to_msg(Image(0, astronaut)))
    until(lambda: lab.observer.seen["faces"], "the faces")
    [found] = lab.observer.seen["faces"]
    assert begun <= from_time(found.header.stamp) <= node.now()
    assert found.looked_at


def test_sound_that_is_published_with_best_effort_is_heard(lab):
    lab.observer.hear("utterance")
    lab.up("utterance")
    qos = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
    lab.observer._out["audio"] = lab.observer.create_publisher(msg.AudioChunk, "audio", qos)
    for chunk in dialogue_chunks(1):
        lab.observer.say("audio", to_msg(chunk))
    until(lambda: lab.observer.seen["utterance"], "the utterance")
