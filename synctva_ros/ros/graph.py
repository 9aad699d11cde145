"""All nodes in one process, for machines without ``ros2 launch``: what ``synctva run`` starts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from synctva_ros import msg
from synctva_ros.config import Overrides
from synctva_ros.events import Emotion, EndOfStream, Utterance
from synctva_ros.ros.convert import from_msg
from synctva_ros.ros.environment import check_environment, graph_name, others, wait_for_others
from synctva_ros.ros.node import QOS_RESULT, PerceptionNode
from synctva_ros.ros.stages import StageNode

#: Seconds without any answer after which the utterances on their way are given up.
STALLED_AFTER = 60.0
#: How the command is told another namespace.
NAMESPACE = "--namespace NAME"


def create_node(name: str, **kwargs: Any) -> PerceptionNode:
    """A node by its name, which is one of ``config.NODES``."""
    from synctva_ros.ros import sources, stages

    special: dict[str, Callable[..., PerceptionNode]] = {
        "microphone": sources.MicrophoneNode,
        "camera": sources.CameraNode,
        "media": sources.MediaNode,
        "utterance": stages.UtteranceNode,
        "emotion": stages.EmotionNode,
    }
    return special.get(name, stages.StageNode)(name, **kwargs)


def quieten() -> None:
    """Say nothing more in the log of this process."""
    rclpy.logging.set_logger_level("", rclpy.logging.LoggingSeverity.FATAL)


def end() -> None:
    """Let go of ROS, whether a graph came to be or not."""
    rclpy.try_shutdown()


class GraphError(RuntimeError):
    """The graph cannot run; the message says which node refused."""


#: What is raised when a graph cannot run: its own sentence, or what ROS says of names and contexts.
FAILURES = (GraphError, NameValidationException, RuntimeError)


class Graph:
    """The nodes named, built, configured and activated in one process over real DDS.

    Each node has an executor and a thread of its own. An executor of rclpy goes through all that it knows before each
    callback, and every node has a dozen services that nobody calls: with one executor for all of them, each chunk of
    sound would pay for those of all nodes.

    With ``ROS_AUTOMATIC_DISCOVERY_RANGE=OFF`` in the environment it is alone: its nodes still find each other.

    Of several graphs in one place the first goes on; see ``environment.others``.

    Args:
        nodes: their names, from the end of the street back to its sources (who listens must be there before who
            speaks), each with the parameters that win over the file; see ``config.plan``.
        config: YAML file of parameters.
        on_emotion: called with each answer.
        namespace: of all nodes.

    Raises:
        ValueError: the namespace is none, or ROS cannot work in this environment.
        GraphError: one of these nodes is running already.

    """

    def __init__(
        self,
        nodes: Overrides,
        config: Path | None,
        on_emotion: Callable[[Emotion], None],
        namespace: str = "",
    ) -> None:
        arguments = ["--ros-args", "--log-level", "rcl:=error"]
        if config is not None:
            arguments += ["--params-file", str(config)]
        check_environment()
        # rclpy's own handlers would end the context at once: signals are for whoever builds the graph.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        self._is_alone = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") == "OFF"
        self._is_up = False
        self._on_emotion = on_emotion
        self._open: dict[str, None] = {}  # utterances that wait for their final answer
        self._ended: deque[str] = deque(maxlen=8)  # streams
        self._last_answer = time.monotonic()
        self.nodes: dict[str, PerceptionNode] = {}
        #: Of the node that listens to the answers; others that belong to the graph can be added to it.
        self.executor = SingleThreadedExecutor()
        self._executors = {"listener": self.executor}
        self._listener = Node(graph_name(), namespace=namespace)
        self._listener.create_subscription(msg.Emotion, "emotion", self._listen, QOS_RESULT)
        self.executor.add_node(self._listener)
        other = "" if self._is_alone else wait_for_others(self._listener, nodes, NAMESPACE)
        if other:
            self._listener.destroy_node()
            rclpy.try_shutdown()
            raise GraphError(other)
        for name, values in nodes.items():
            parameters = [Parameter(key, value=value) for key, value in values.items()]
            self.nodes[name] = create_node(name, namespace=namespace, parameter_overrides=parameters)
            self.nodes[name].logs_refusals = False  # the exception says it
            self._executors[name] = SingleThreadedExecutor()
            self._executors[name].add_node(self.nodes[name])
        turns = self.nodes["utterance"]
        assert isinstance(turns, StageNode)
        turns.watchers.append(self._watch)
        self._is_over: Future[None] = Future()
        self._spinners = [
            threading.Thread(target=self._spin, args=(executor,), name=f"{name} executor", daemon=True)
            for name, executor in self._executors.items()
        ]

    def start(self) -> None:
        """Configure all nodes, the sources first (a bad file is told before models are loaded), then activate them.

        Raises:
            GraphError: a node refused, or another graph was there before.

        """
        for name, node in reversed(self.nodes.items()):
            self._give_way()
            if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
                raise GraphError(f"{name}: {node.refusal or 'could not be configured'}")
        self._give_way()
        for spinner in self._spinners:
            spinner.start()
        for name, node in self.nodes.items():
            if node.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                raise GraphError(f"{name}: {node.refusal or 'could not be activated'}")
        self._is_up = True

    @property
    def finished(self) -> bool:
        """Whether the media file has ended and every utterance found in it was answered.

        Raises:
            GraphError: answers have stopped coming, or another graph was there before.

        """
        self._give_way()
        for spinner in self._spinners:
            if not spinner.is_alive():
                raise GraphError(f"the {spinner.name} has ended; the error above says why")
        media: Any = self.nodes.get("media")
        if media is None or not media.ended.is_set():
            self._last_answer = time.monotonic()
            return False
        if media.has_audio and media.stream_id not in self._ended:
            missing = "the end of its sound"
        else:
            if not self._open:
                return True
            missing = f"an answer to {', '.join(self._open)}"
        if time.monotonic() - self._last_answer > STALLED_AFTER:
            raise GraphError(f"the file has ended, but {missing} has not come within {STALLED_AFTER:g} s")
        return False

    def stop(self) -> None:
        """Take everything down."""
        # First the threads, then their executors, then the nodes: rclpy's shutdown does not wait for a callback that is
        # running, and takes from under it what it still needs.
        self._is_over.set_result(None)
        for spinner in self._spinners:
            if spinner.is_alive():
                spinner.join()
        for executor in self._executors.values():
            executor.shutdown()
        for node in reversed(self.nodes.values()):
            node.shut_down()
        for node in self.nodes.values():
            node.destroy_node()
        self._listener.destroy_node()
        rclpy.try_shutdown()

    def _give_way(self) -> None:
        """Two graphs on the same topics would answer each other's utterances."""
        if not self._is_alone and (other := others(self._listener, self.nodes, NAMESPACE, own=1, is_up=self._is_up)):
            raise GraphError(other)

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            executor.spin_until_future_complete(self._is_over)

    def _watch(self, event: Any) -> None:
        """On the thread of the end-pointer's node."""
        if isinstance(event, EndOfStream):
            self._ended.append(event.stream_id)
        elif isinstance(event, Utterance) and event.is_final:
            self._open[event.utterance_id] = None

    def _listen(self, message: msg.Emotion) -> None:
        emotion: Emotion = from_msg(Emotion, message)
        self._on_emotion(emotion)
        self._last_answer = time.monotonic()
        if emotion.is_final:
            self._open.pop(emotion.utterance_id, None)
