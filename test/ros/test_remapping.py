"""Topics by other names: everything that looks for a topic looks for the one that is meant."""

from __future__ import annotations

import array
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from harness import ORIGIN, dialogue_chunks, finals, laboratory, until, utterances
from sensor_msgs.msg import CompressedImage

from synctva_ros.events import NANOSECONDS, Image, Modality, Transcript, TranscriptStatus
from synctva_ros.ros.convert import image_to_msg, to_msg, to_time


@pytest.fixture
def lab():
    with laboratory("robot1") as made:
        yield made


def test_words_are_awaited_on_the_topic_that_is_meant(lab):
    (said,) = finals(utterances(1))
    words = Transcript(said.utterance_id, said.end, TranscriptStatus.OK, "Good morning.", "en")
    lab.observer.hear("features")
    lab.observer.speak("/asr/words", "transcript")
    lab.up("features", remap=["transcript:=/asr/words"])
    until(lambda: lab.nodes["features"].has_publisher("transcript"), "who gives words")
    lab.observer.say("utterance", to_msg(said))
    time.sleep(1.0)
    assert lab.observer.seen["features"] == []
    lab.observer.say("/asr/words", to_msg(words))
    until(lambda: lab.observer.seen["features"], "the features")
    (message,) = lab.observer.seen["features"]
    assert message.text == "Good morning."
    assert message.modalities == Modality.TEXT | Modality.AUDIO


@pytest.mark.parametrize("remap", [[], ["transcript:=/asr/words"]])
def test_words_are_not_awaited_when_nobody_gives_any(lab, remap):
    """Not even if somebody publishes on the topic that it would be without the remapping, or beside the namespace."""
    (said,) = finals(utterances(1))
    lab.observer.hear("features")
    lab.observer.speak("transcript" if remap else "/transcript", "transcript")
    lab.up("features", remap=remap, transcript_timeout=120.0)
    lab.observer.say("utterance", to_msg(said))
    until(lambda: lab.observer.seen["features"], "the features", seconds=60.0)
    assert lab.observer.seen["features"][0].modalities == Modality.AUDIO
    level, sentence, values = lab.state("features")
    assert level == 0, sentence
    assert values["fusion: without words in time"] == 0


def test_words_that_never_come_are_awaited_for_as_long_as_the_parameter_says(lab):
    (said,) = finals(utterances(1))
    lab.observer.hear("features")
    lab.observer.speak("/asr/words", "transcript")
    lab.up("features", remap=["transcript:=/asr/words"], transcript_timeout=1.0)
    until(lambda: lab.nodes["features"].has_publisher("transcript"), "who gives words")
    begun = time.monotonic()
    lab.observer.say("utterance", to_msg(said))
    until(lambda: lab.observer.seen["features"], "the features")
    assert time.monotonic() - begun >= 1.0
    assert lab.observer.seen["features"][0].modalities == Modality.AUDIO
    assert lab.state("features")[2]["fusion: without words in time"] == 1


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_images_come_on_the_topic_that_is_meant(lab, astronaut, transport):
    cv2 = pytest.importorskip("cv2")
    lab.observer.hear("faces")
    lab.up("faces", remap=["image:=/head/image_raw"], image_transport=transport)
    if transport == "raw":
        lab.observer.speak("/head/image_raw", "image")
        lab.observer.say("/head/image_raw", image_to_msg(Image(ORIGIN, astronaut, "head")))
    else:
        data = array.array("B", cv2.imencode(".jpg", astronaut)[1].tobytes())
        message = CompressedImage(format="bgr8; jpeg compressed bgr8", data=data)
        message.header.stamp, message.header.frame_id = to_time(ORIGIN), "head"
        lab.observer.speak("/head/image_raw/compressed", "image/compressed")
        lab.observer.say("/head/image_raw/compressed", message)
    until(lambda: lab.observer.seen["faces"], "the faces")
    (message,) = lab.observer.seen["faces"]
    assert message.header.stamp == to_time(ORIGIN)
    assert message.header.frame_id == "head"
    assert len(message.faces) == 1
    names = {subscription.topic_name for subscription in lab.nodes["faces"].subscriptions}
    assert names == {"/head/image_raw" if transport == "raw" else "/head/image_raw/compressed"}


def test_sound_comes_on_the_topic_that_is_meant(lab):
    lab.observer.hear("utterance")
    lab.observer.speak("/microphones/front", "audio")
    lab.up("utterance", remap=["audio:=/microphones/front"])
    for chunk in dialogue_chunks(1):
        lab.observer.say("/microphones/front", to_msg(chunk))
    until(lambda: lab.observer.seen["utterance"], "the utterance")
    (message,) = lab.observer.seen["utterance"]
    assert message.stream_end - message.stream_start > 2.0


def test_faces_are_awaited_on_the_topic_that_is_meant(lab):
    """Whether images lag behind is asked of the topic that faces really come on."""
    from synctva_ros.events import Face, Faces

    (said,) = finals(utterances(1))
    lab.observer.hear("features")
    lab.observer.speak("/head/faces", "faces")
    node = lab.up("features", remap=["faces:=/head/faces"], text_encoder="")
    until(lambda: node.has_publisher("faces"), "who gives faces")
    face = Face("f1", 0.4, 0.4, 0.2, 0.2, 0.9, 0.9, expression=pytest.importorskip("numpy").ones(4, "f4"))
    reports = [
        Faces(said.end - round(before * NANOSECONDS), True, (face,), 480, 640, "e") for before in (0.3, 0.2, -0.1)
    ]
    for report in reports[:2]:
        lab.observer.say("/head/faces", to_msg(report))
        lab.until_seen(report.stamp)
    lab.observer.say("utterance", to_msg(said))
    lab.observer.say("/head/faces", to_msg(reports[2]))
    until(lambda: lab.observer.seen["features"], "the features")
    (message,) = lab.observer.seen["features"]
    assert message.frames_seen == 2
    assert message.modalities & Modality.VISION
