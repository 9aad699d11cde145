"""The nodes of the street: each is a row of a table that says which events it takes from and gives to which topics."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from synctva_ros import msg, srv
from synctva_ros.events import (
    NANOSECONDS,
    AudioChunk,
    Emotion,
    Faces,
    Features,
    Image,
    Reset,
    RobotSpeaking,
    Transcript,
    Utterance,
)
from synctva_ros.plural import counted
from synctva_ros.ros.convert import MESSAGES, from_msg, image_from_msg, speaking_from_msg, to_msg
from synctva_ros.ros.node import (
    QOS_AUDIO_IN,
    QOS_AUDIO_OUT,
    QOS_IMAGE_IN,
    QOS_LATCHED,
    QOS_RESULT,
    PerceptionNode,
)
from synctva_ros.street.pipeline import Host, Pipeline
from synctva_ros.street.stage import Join, State
from synctva_ros.street.table import STREET, use_threads

#: What has gone wrong stands on ``/diagnostics`` for so long [s]; the counts stay.
RECENT = 60.0
#: A topic may be without publishers for so long after a node was activated [s]: those that speak come up last.
PATIENCE = 10.0
#: What the street can do without.
OPTIONAL = (Image, Faces, Transcript)
#: What to do where nobody publishes.
REMEDIES = {
    AudioChunk: "start a microphone, or remap audio to the topic of your driver",
    Image: "there are no faces without a camera; start one, or remap image (image_transport: compressed if it is)",
}
UPSTREAM = "is the node before this one active, in the same namespace and domain?"
#: Whose warnings the node of the network says.
NETWORK = "synctva_ros.network"


@dataclass(frozen=True)
class Topic:
    """Where an event travels; ``partial`` ones of its kind have a topic of their own."""

    name: str
    out: QoSProfile
    into: QoSProfile
    partial: bool = False


#: The topic of each event.
TOPICS: dict[type, Topic] = {
    AudioChunk: Topic("audio", QOS_AUDIO_OUT, QOS_AUDIO_IN),
    Utterance: Topic("utterance", QOS_RESULT, QOS_RESULT, partial=True),
    Transcript: Topic("transcript", QOS_RESULT, QOS_RESULT, partial=True),
    Faces: Topic("faces", QOS_RESULT, QOS_RESULT),
    Features: Topic("features", QOS_RESULT, QOS_RESULT, partial=True),
    Emotion: Topic("emotion", QOS_RESULT, QOS_RESULT),
}


@dataclass(frozen=True)
class Row:
    """What a node takes and gives.

    Attributes:
        takes: events, by their topics.
        gives: events, by their topics.
        awaits: for each modality that comes from another node, the event that brings it.
        threaded: the stages work on a thread of their own; else they are so quick that the executor may wait for them.
        torch: the stages run networks in torch, on as many threads as the parameter ``threads`` says, or on one.
    """

    takes: tuple[type, ...]
    gives: tuple[type, ...]
    awaits: dict[str, type]
    threaded: bool = True
    torch: bool = True


ROWS: dict[str, Row] = {
    "utterance": Row((AudioChunk, RobotSpeaking), (Utterance,), {}, threaded=False),
    "transcriber": Row((Utterance,), (Transcript,), {}, torch=False),
    "faces": Row((Image,), (Faces,), {}),
    "features": Row((Utterance, Transcript, Faces), (Features,), {"text": Transcript, "vision": Faces}),
    "emotion": Row((Features,), (Emotion,), {}),
}


class StageNode(PerceptionNode):
    """Hosts the stages that the street's table names for it, between topics."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._row = ROWS[name]
        self._build = STREET[name]
        self._pipeline: Pipeline | None = None
        self._host: Host | None = None
        self._outputs: dict[tuple[type, bool], Any] = {}
        self._malformed = 0
        self._malformed_at = self._shed_at = float("-inf")  # when that happened last, on the steady clock [s]
        self._is_at_work = False
        self._worker = 0  # the thread that was told last on how many threads torch works
        self._active_since = 0.0
        self._inputs: dict[type, tuple[str, Any]] = {}  # by event: the topic's full name, and the type of its messages
        self._lacking: dict[str, State] = {}
        self._has_said_unstamped = False
        #: Called with every event that leaves a stage, before it is published, on the thread that works.
        self.watchers: list[Callable[[Any], None]] = []

    def configure(self) -> None:
        """Build the stages and let each work once."""
        self._use_threads()
        stages = self._build(self.config, self.get_logger())
        for stage in stages:
            if isinstance(stage, Join):
                stage.expects = self._expects
        self._pipeline = Pipeline(stages, self.now)
        self._pipeline.warm_up()

    def activate(self) -> None:
        """Start to work, and listen."""
        assert self._pipeline is not None
        if not self._pipeline.stages:
            return
        for kind in self._row.gives:
            topic = TOPICS[kind]
            self._outputs[kind, True] = self.advertise(MESSAGES[kind], topic.name, topic.out)
            if topic.partial:
                self._outputs[kind, False] = self.advertise(MESSAGES[kind], f"{topic.name}/partial", topic.out)
        if self._row.threaded:
            self._host = Host(
                self.get_name(),
                self._pipeline,
                self._give,
                getattr(self.config, "queue_size", 1),
                self.report_error,
                self._use_threads,
            )
        self._is_at_work, self._active_since = True, time.monotonic()
        for kind in self._row.takes:
            self._listen(kind)

    def deactivate(self) -> None:
        """Stop to work; what is under way goes out as far as it got."""
        is_at_work, self._is_at_work = self._is_at_work, False
        if self._host is not None:
            given_up = self._host.stop()
            if given_up:
                self.get_logger().error(
                    f"given up, as the node is deactivated: {counted(given_up, 'event')} that waited"
                )
            self._host = None
        if self._pipeline is not None and is_at_work:
            for event in self._pipeline.flush():
                self._give(event)
        self._outputs.clear()

    def cleanup(self) -> None:
        """Let go of the stages."""
        self._pipeline = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """The worst of the stages' states, and all their counts."""
        if self._pipeline is None or not self._pipeline.stages:
            return 0, "off", {}
        stages, now = self._pipeline.stages, time.monotonic()
        lacks = {f"{stage.name} {key}": state for stage in stages for key, state in stage.lacks(now).items()}
        lacks |= self._missing_topics()
        self._tell(lacks)
        states = [*(stage.state() for stage in reversed(stages)), *lacks.values()]
        worst = max(states, key=lambda state: state.level)
        level, sentence = worst.level, worst.sentence
        values: dict[str, Any] = {}
        for stage in stages:
            prefix = f"{stage.name}: " if len(stages) > 1 else ""
            values |= {f"{prefix}{key}": value for key, value in stage.details().items()}
        if self._host is not None:
            values |= {"waiting": self._host.inbox.waiting, **self._host.inbox.counts}
        if now - self._shed_at < RECENT:
            level, sentence = 2, "utterances come faster than they are worked on"
        elif now - self._malformed_at < RECENT:
            level, sentence = max(level, 1), "messages cannot be read"
        return level, sentence, values | {"malformed": self._malformed}

    # --- details

    def _tell(self, lacks: dict[str, State]) -> None:
        """A line when something begins to be missing, and one when it is there again."""
        for key in lacks.keys() - self._lacking.keys():
            state = lacks[key]
            if state.level:  # two lines: rclpy raises ValueError where one line says things of different severity
                self.get_logger().warning(state.sentence)
            else:
                self.get_logger().info(state.sentence)
        for key in self._lacking.keys() - lacks.keys():
            self.get_logger().info(f"over: {self._lacking[key].sentence}")
        self._lacking = lacks

    def _missing_topics(self) -> dict[str, State]:
        """Topics on which nobody publishes, or something else than what is needed."""
        found: dict[str, State] = {}
        if time.monotonic() - self._active_since < PATIENCE:
            return found
        for kind, (name, message_type) in self._inputs.items():
            wanted = f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"
            published = self.get_publishers_info_by_topic(name)
            others = sorted({info.topic_type for info in published} - {wanted})
            if others:
                sentence = f"{name} carries {', '.join(others)}, not {wanted}: remap it to the topic that is meant"
                found[name] = State(1, sentence)
            elif not published:
                level = 0 if kind in OPTIONAL else 1
                found[name] = State(level, f"nobody publishes {wanted} on {name}: {REMEDIES.get(kind, UPSTREAM)}")
        return found

    def _listen(self, kind: type) -> None:
        if kind is RobotSpeaking:
            self.subscribe(Bool, "robot_speaking", lambda message: self._take(speaking_from_msg(message)), QOS_RESULT)
        elif kind is Image:
            # Named as image_transport does it: after the topic of the images, whatever that was remapped to.
            images = {
                "raw": (RosImage, "image"),
                "compressed": (CompressedImage, f"{self.resolve_topic_name('image')}/compressed"),
            }
            message_type, name = images[self.config.image_transport]
            self._inputs[kind] = self.resolve_topic_name(name), message_type
            self.subscribe(
                message_type, name, lambda message: self._take(self._stamped(image_from_msg(message))), QOS_IMAGE_IN
            )
        else:
            topic = TOPICS[kind]
            self._inputs[kind] = self.resolve_topic_name(topic.name), MESSAGES[kind]
            qos = copy.copy(topic.into)
            qos.reliability = ReliabilityPolicy.BEST_AVAILABLE  # somebody else's node may publish with best effort
            self.subscribe(MESSAGES[kind], topic.name, partial(self._on_message, kind, True), qos)
            if topic.partial:
                name = f"{topic.name}/partial"
                self.subscribe(MESSAGES[kind], name, partial(self._on_message, kind, False), topic.into)

    def _on_message(self, kind: type, is_final: bool, message: Any) -> None:
        try:
            event = from_msg(kind, message, is_final=is_final)
        except ValueError as error:
            self._malformed += 1
            self._malformed_at = time.monotonic()
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self._take(self._stamped(event))

    def _stamped(self, event: Any) -> Any:
        """What a source sends without a stamp gets the time at which it came."""
        if getattr(event, "stamp", 1):
            return event
        if not self._has_said_unstamped:
            self._has_said_unstamped = True
            self.get_logger().warning(
                "messages come with stamp 0: the time at which they come is taken; have the driver stamp them"
            )
        length = len(event.samples) / event.sample_rate if isinstance(event, AudioChunk) else 0.0
        return replace(event, stamp=self.now() - round(length * NANOSECONDS))

    def _take(self, event: Any) -> None:
        if not self._is_at_work or self._pipeline is None:  # a message that was under way while the node fell silent
            return
        if self._host is None:
            if threading.get_ident() != self._worker:  # the executor's thread is another than that which configures
                self._use_threads()
            for given in self._pipeline.push(event):
                self._give(given)
        elif not self._host.put(event):
            self._shed_at = time.monotonic()
            self.get_logger().error(
                f"too many utterances wait: {event.utterance_id} goes on without what {self.get_name()} would add",
                throttle_duration_sec=5.0,
            )

    def _give(self, event: Any) -> None:
        for watcher in self.watchers:
            watcher(event)
        is_partial = type(event) in TOPICS and TOPICS[type(event)].partial and not event.is_final
        publisher = self._outputs.get((type(event), not is_partial))
        if publisher is not None:
            publisher.publish(to_msg(event))

    def _use_threads(self) -> None:
        self._worker = threading.get_ident()
        if self._row.torch:
            use_threads(getattr(self.config, "threads", 1))

    def _expects(self, modality: str) -> bool:
        kind = self._row.awaits.get(modality)
        return kind is not None and self.has_publisher(TOPICS[kind].name)


class UtteranceNode(StageNode):
    """The ears: they also say whose voices they know, learn names and forget."""

    def activate(self) -> None:
        """Offer ``~/enroll``, ``~/forget`` and ``~/speakers``."""
        super().activate()
        self.serve(srv.Enroll, "~/enroll", self._on_enroll)
        self.serve(srv.Forget, "~/forget", self._on_forget)
        self.serve(srv.Speakers, "~/speakers", self._on_speakers)

    @property
    def _turns(self) -> Any:
        assert self._pipeline is not None
        return self._pipeline.stages[0]

    def _on_enroll(self, request: srv.Enroll.Request, response: srv.Enroll.Response) -> srv.Enroll.Response:
        try:
            voice = self._turns.enroll(request.name, request.speaker_id, request.utterance_id)
        except (ValueError, OSError) as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.speaker_id = True, voice.speaker_id if voice else ""
        who = f"{voice.speaker_id} is {request.name}" if voice else f"who is speaking is {request.name}"
        response.message = who
        return response

    def _on_forget(self, request: srv.Forget.Request, response: srv.Forget.Response) -> srv.Forget.Response:
        try:
            self._turns.forget(request.who)
        except (ValueError, OSError) as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.message = True, f"{request.who or 'all voices'} forgotten"
        return response

    def _on_speakers(self, request: srv.Speakers.Request, response: srv.Speakers.Response) -> srv.Speakers.Response:
        voices = self._turns.speakers.voices
        response.speaker_ids = [voice.speaker_id for voice in voices]
        response.person_ids = [voice.name for voice in voices]
        response.seconds = [voice.seconds for voice in voices]
        return response


class EmotionNode(StageNode):
    """The end of the street: it also says which classes there are, and forgets the dialogue when asked to."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._handler = _ToRos(self.get_logger())

    def configure(self) -> None:
        """Take the network's warnings to the log, too."""
        logging.getLogger(NETWORK).addHandler(self._handler)
        super().configure()

    def cleanup(self) -> None:
        """Let go of the network."""
        super().cleanup()
        logging.getLogger(NETWORK).removeHandler(self._handler)

    def activate(self) -> None:
        """Latch the label table and offer ``~/reset``."""
        super().activate()
        assert self._pipeline is not None
        stage: Any = self._pipeline.stages[-1]  # its type is not named here: the other nodes need no torch
        table = self.advertise(msg.LabelTable, "emotion/labels", QOS_LATCHED)
        table.publish(msg.LabelTable(model_id=stage.model_id, labels=list(stage.labels)))
        self.serve(Trigger, "~/reset", self._on_reset)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Forget the dialogue after what already waits."""
        self._take(Reset())
        response.success, response.message = True, "the next utterance starts a new dialogue"
        return response


class _ToRos(logging.Handler):
    """Takes the core's warnings to the log of a node, each once."""

    def __init__(self, log: Any) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self._log.warning(record.getMessage())
