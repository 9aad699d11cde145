"""What tests of running nodes share: nodes on threads of their own, and a partner that talks and listens to them."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool

from synctva_ros import msg
from synctva_ros.config import NODES
from synctva_ros.events import AudioChunk, Utterance
from synctva_ros.ros.graph import create_node
from synctva_ros.ros.node import QOS_AUDIO_IN, QOS_AUDIO_OUT, QOS_IMAGE_OUT, QOS_LATCHED, QOS_RESULT
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.pipeline import Pipeline
from synctva_ros.street.playback import Sentences
from synctva_ros.street.table import STREET

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"
WHISPER = str(ROOT / "synctva_ros/weights/whisper_demo")
SCRIPT = json.loads((DEMO / "dialogue.json").read_text())["turns"]
#: Generous: no test depends on how fast the machine is.
PATIENCE = 60.0
ORIGIN = 100_000_000_000  # of recorded sound: long ago

#: The topics of the street: message, and how one listens to it and publishes on it.
TOPICS = {
    "audio": (msg.AudioChunk, QOS_AUDIO_IN, QOS_AUDIO_OUT),
    "robot_speaking": (Bool, QOS_RESULT, QOS_RESULT),
    "image": (Image, QOS_IMAGE_OUT, QOS_IMAGE_OUT),
    "image/compressed": (CompressedImage, QOS_IMAGE_OUT, QOS_IMAGE_OUT),
    "utterance": (msg.Utterance, QOS_RESULT, QOS_RESULT),
    "utterance/partial": (msg.Utterance, QOS_RESULT, QOS_RESULT),
    "transcript": (msg.Transcript, QOS_RESULT, QOS_RESULT),
    "transcript/partial": (msg.Transcript, QOS_RESULT, QOS_RESULT),
    "faces": (msg.Faces, QOS_RESULT, QOS_RESULT),
    "features": (msg.UtteranceFeatures, QOS_RESULT, QOS_RESULT),
    "features/partial": (msg.UtteranceFeatures, QOS_RESULT, QOS_RESULT),
    "emotion": (msg.Emotion, QOS_RESULT, QOS_RESULT),
    "emotion/labels": (msg.LabelTable, QOS_LATCHED, QOS_LATCHED),
}


def until(condition, what="it", seconds=PATIENCE):
    """Wait for something; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come"
        time.sleep(0.01)


class Observer(Node):
    """Somebody else's node: keeps what comes on topics, says things on others, and reads the diagnostics."""

    def __init__(self, *topics, namespace="", name="observer"):
        super().__init__(name, namespace=namespace)
        self.seen = defaultdict(list)
        self.received = defaultdict(list)  # when each of them came, on the wall clock [ns]
        self.diagnostics = {}
        self.levels = defaultdict(list)  # every state that a node has said: level and sentence
        self._out = {}
        for topic in topics:
            self.hear(topic)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, QoSProfile(depth=10))

    def hear(self, topic, kind=""):
        """Listen to a topic, which is of the kind of another one if it is none of the street's."""
        message, into, _ = TOPICS[kind or topic]

        def keep(received):
            self.received[topic].append(time.time_ns())
            self.seen[topic].append(received)

        self.create_subscription(message, topic, keep, into)

    def speak(self, topic, kind=""):
        """Get ready to publish on a topic."""
        message, _, out = TOPICS[kind or topic]
        self._out[topic] = self.create_publisher(message, topic, out)

    def say(self, topic, message):
        """Publish, once somebody listens."""
        if topic not in self._out:
            self.speak(topic)
        until(lambda: self._out[topic].get_subscription_count(), f"a listener to {topic}")
        self._out[topic].publish(message)

    def _diagnose(self, message):
        for status in message.status:
            self.diagnostics[status.name] = (status.message, {pair.key: pair.value for pair in status.values})
            self.levels[status.name].append((ord(status.level), status.message))


class Lab:
    """Nodes of the street, each with an executor and a thread of its own as in its own process, and an observer."""

    def __init__(self, namespace=""):
        self.namespace = namespace
        self.nodes = {}
        self._executors = {}
        self._threads = []
        self.observer = Observer(namespace=namespace)
        self._spin("observer", self.observer)

    def add(self, name, *, remap=(), **values):
        """Create a node and let it spin."""
        parameters = [Parameter(key, value=value) for key, value in values.items()]
        arguments = ["--ros-args", *(part for rule in remap for part in ("-r", rule))]
        node = create_node(name, namespace=self.namespace, parameter_overrides=parameters, cli_args=arguments)
        self.nodes[name] = node
        self._spin(name, node)
        return node

    def up(self, name, **options):
        """Create a node, configure and activate it."""
        node = self.add(name, **options)
        self.change(name, "configure")
        self.change(name, "activate")
        return node

    def change(self, name, *transitions):
        """Have a node change its state, on its own thread, as the lifecycle services do."""
        node = self.nodes[name]
        for transition in transitions:
            task = self._executors[name].create_task(getattr(node, f"trigger_{transition}"))
            until(task.done, f"{transition} of {name}")
            assert task.result() == TransitionCallbackReturn.SUCCESS, node.refusal
        if transitions[-1] == "activate":
            # Who listens must have been found before something is said that is said once only.
            names = {subscription.topic_name for subscription in self.observer.subscriptions}
            for publisher in node.publishers:
                if publisher.topic_name in names:
                    until(publisher.get_subscription_count, f"the observer of {publisher.topic_name}")

    def state(self, name):
        """What a node says of itself: level, sentence, values."""
        return self.nodes[name].diagnose()

    def diagnosed(self, name, level):
        """Wait until a node says on /diagnostics that it is at this level, from now on; return its sentence."""
        said = self.observer.levels[self.namespace.strip("/") + "/" * bool(self.namespace) + name]
        said.clear()
        until(lambda: any(found == level for found, _ in said), f"level {level} of {name}")
        return next(sentence for found, sentence in said if found == level)

    def until_seen(self, stamp):
        """Wait until the node ``features`` has a report of the image of this time: topics may overtake each other."""
        *_, fusion = self.nodes["features"]._pipeline.stages
        until(lambda: any(report.stamp == stamp for report in list(fusion._reports)), "the report of the faces")

    def _spin(self, name, node):
        executor = SingleThreadedExecutor()
        executor.add_node(node)

        def spin():
            with suppress(rclpy.executors.ExternalShutdownException):
                executor.spin()

        self._executors[name] = executor
        self._threads.append(threading.Thread(target=spin, name=f"{name} executor", daemon=True))
        self._threads[-1].start()

    def close(self):
        """Take everything down."""
        for executor in self._executors.values():
            executor.shutdown()
        for thread in self._threads:
            thread.join()
        for node in self.nodes.values():
            node.shut_down()
            node.destroy_node()
        self.observer.destroy_node()


@contextmanager
def laboratory(namespace="", arguments=()):
    """A :class:`Lab` with a ROS context of its own."""
    rclpy.init(args=["--ros-args", "--log-level", "rcl:=error", *arguments])
    lab = Lab(namespace)
    try:
        yield lab
    finally:
        lab.close()
        rclpy.try_shutdown()


def dialogue_chunks(turns, origin=ORIGIN, frame_id="mic"):
    """The first turns of the demo's dialogue as chunks, with a last one that ends the stream."""
    until = origin + round((SCRIPT[turns - 1]["end"] + 1.0) * 1e9)
    whole = MediaFile(DEMO / "dialogue.flac", frame_id=frame_id)
    chunks = [chunk for chunk in whole.play(origin) if chunk.stamp < until]
    last = chunks[-1]
    end = AudioChunk(
        last.stream_id,
        last.sequence + 1,
        until,
        last.sample_rate,
        last.samples[:0],
        end_of_stream=True,
        frame_id=frame_id,
    )
    return [*chunks, end]


def utterances(turns, origin=ORIGIN, **config):
    """The first turns as the end-pointer gives them: partial ones and final ones."""
    log = Sentences(lambda sentence: None, lambda sentence: None)
    pipeline = Pipeline(STREET["utterance"](NODES["utterance"](**config), log), lambda: 0)
    return [
        event
        for chunk in dialogue_chunks(turns, origin)
        for event in pipeline.push(chunk)
        if isinstance(event, Utterance)
    ]


def finals(events):
    """Those that are over."""
    return [event for event in events if event.is_final]
