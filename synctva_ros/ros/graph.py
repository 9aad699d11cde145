"""All nodes in one process, for machines without ``ros2 launch``: what ``synctva run`` starts."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

from synctva_ros import msg
from synctva_ros.ros.node import QOS_RESULT, PerceptionNode, Value
from synctva_ros.ros.utterance import UtteranceNode

#: From /emotion back to the sources: who listens must be there before who speaks.
NODES = {
    "emotion": "EmotionNode",
    "features": "FeaturesNode",
    "transcriber": "TranscriberNode",
    "utterance": "UtteranceNode",
    "camera": "CameraNode",
    "microphone": "MicrophoneNode",
    "media": "MediaNode",
}
#: Seconds without any answer after which the utterances on their way are given up.
STALLED_AFTER = 60.0


class GraphError(RuntimeError):
    """The graph cannot run; the message says which node refused."""


class Graph:
    """The nodes named, built, configured and activated in one process over real DDS.

    Each node has an executor and a thread of its own. An executor of rclpy goes through all that it knows before each
    callback, and every node has a dozen services that nobody calls: with one executor for all of them, each chunk of
    sound would pay for those of all nodes.

    Args:
        nodes: names out of ``NODES``.
        config: YAML file of parameters.
        overrides: parameters per node that win over the file.
        on_emotion: called with each message on ``emotion``.
        namespace: of all nodes.

    """

    def __init__(
        self,
        nodes: list[str],
        config: Path | None,
        overrides: dict[str, dict[str, Value]],
        on_emotion: Callable[[msg.Emotion], None],
        namespace: str = "",
    ) -> None:
        arguments = ["--ros-args", "--log-level", "rcl:=error"]
        if config is not None:
            arguments += ["--params-file", str(config)]
        rclpy.init(args=arguments)
        self._on_emotion = on_emotion
        #: Ids of the newest utterances that got their final answer.
        self.answered: deque[str] = deque(maxlen=1024)
        self._last_answer = time.monotonic()
        self.nodes: dict[str, PerceptionNode] = {}
        #: Of the node that listens to the answers; others that belong to the graph can be added to it.
        self.executor = SingleThreadedExecutor()
        self._executors = {"listener": self.executor}
        for name in (name for name in NODES if name in nodes):
            module = importlib.import_module(f"synctva_ros.ros.{name}")
            parameters = [Parameter(key, value=value) for key, value in overrides.get(name, {}).items()]
            node = getattr(module, NODES[name])(namespace=namespace, parameter_overrides=parameters)
            self.nodes[name] = node
            self._executors[name] = SingleThreadedExecutor()
            self._executors[name].add_node(node)
        self._listener = Node("synctva_listener", namespace=namespace)
        self._listener.create_subscription(msg.Emotion, "emotion", self._listen, QOS_RESULT)
        self.executor.add_node(self._listener)
        self._spinners = [
            threading.Thread(target=self._spin, args=(executor,), name=f"{name} executor", daemon=True)
            for name, executor in self._executors.items()
        ]

    def start(self) -> None:
        """Configure all nodes, the sources first (a bad file is told before models are loaded), then activate them.

        Raises:
            GraphError: a node refused; its log says why.

        """
        for name, node in reversed(self.nodes.items()):
            if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
                raise GraphError(f"{name}: {node.refusal or 'could not be configured'}")
        for spinner in self._spinners:
            spinner.start()
        for name, node in self.nodes.items():
            if node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                raise GraphError(f"{name}: {node.refusal or 'could not be activated'}")

    @property
    def finished(self) -> bool:
        """Whether the media file has ended and every utterance found in it was answered.

        Raises:
            GraphError: answers have stopped coming.

        """
        for spinner in self._spinners:
            if not spinner.is_alive():
                raise GraphError(f"the {spinner.name} has ended; the error above says why")
        media: Any = self.nodes.get("media")
        utterance = self.nodes["utterance"]
        assert isinstance(utterance, UtteranceNode)
        if media is None or not media.ended.is_set():
            self._last_answer = time.monotonic()
            return False
        if media.has_audio and media.stream_id not in utterance.ended_streams:
            missing = "the end of its sound"
        else:
            open_ids = [identity for identity in utterance.published if identity not in self.answered]
            if not open_ids:
                return True
            missing = f"an answer to {', '.join(open_ids)}"
        if time.monotonic() - self._last_answer > STALLED_AFTER:
            raise GraphError(f"the file has ended, but {missing} has not come within {STALLED_AFTER:g} s")
        return False

    def stop(self) -> None:
        """Take everything down."""
        # First the executors: they must not wait on what the nodes are about to destroy.
        for executor in self._executors.values():
            executor.shutdown()
        for spinner in self._spinners:
            if spinner.is_alive():
                spinner.join()
        for node in reversed(self.nodes.values()):
            node.shut_down()
        for node in self.nodes.values():
            node.destroy_node()
        self._listener.destroy_node()
        rclpy.try_shutdown()

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            executor.spin()

    def _listen(self, message: msg.Emotion) -> None:
        self._on_emotion(message)
        self._last_answer = time.monotonic()
        if message.status != msg.Emotion.PROVISIONAL:
            self.answered.append(message.utterance_id)
