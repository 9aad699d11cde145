"""Node: ``audio`` → ``utterance``, and ``utterance/partial`` before it is over."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from std_msgs.msg import Bool

from synctva_ros import msg
from synctva_ros.audio.endpointer import Endpointer, EndpointerConfig
from synctva_ros.events import Utterance
from synctva_ros.ros.convert import chunk_from_msg, utterance_to_msg
from synctva_ros.ros.node import QOS_AUDIO_IN, QOS_RESULT, Param, PerceptionNode, run_node

DEFAULTS = EndpointerConfig()


class UtteranceNode(PerceptionNode):
    """Finds where someone starts and stops speaking. Webrtcvad takes microseconds a frame: no thread is needed."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("aggressiveness", DEFAULTS.aggressiveness, "How eager webrtcvad is to call sound no speech", 0, 3),
        Param(
            "start_ratio", DEFAULTS.start_ratio, "Share of voiced frames in 0.1 s that starts an utterance", 0.1, 1.0
        ),
        Param("stop_ratio", DEFAULTS.stop_ratio, "Share of voiced frames in 0.1 s that keeps it going", 0.0, 1.0),
        Param(
            "min_level",
            DEFAULTS.min_level,
            "Frames with a smaller root mean square are silence (full scale 1)",
            0.0,
            0.5,
        ),
        Param("hangover", DEFAULTS.hangover, "Silence after which the utterance is over [s]", 0.1, 3.0),
        Param("pre_roll", DEFAULTS.pre_roll, "Sound given along from before the start of speech [s]", 0.0, 1.0),
        Param("min_duration", DEFAULTS.min_duration, "Shortest voiced time of an utterance [s]", 0.05, 2.0),
        Param("max_duration", DEFAULTS.max_duration, "A longer utterance is split at a quiet place [s]", 3.0, 29.0),
        Param(
            "max_gap",
            DEFAULTS.max_gap,
            "Lost sound up to this long becomes silence, more ends the utterance [s]",
            0.0,
            2.0,
        ),
        Param(
            "gate_release", DEFAULTS.gate_release, "Stay deaf so long after the robot stopped speaking [s]", 0.0, 5.0
        ),
        Param(
            "speculate",
            DEFAULTS.speculate,
            "Give out what a pause is taken for before the hang-over is over, so that the others work inside it",
        ),
        Param(
            "provisional_interval",
            DEFAULTS.provisional_interval,
            "While someone speaks there is an estimate of it every so often [s]; 0 for none",
            0.0,
            10.0,
        ),
        Param("speaker_id", "", "Who speaks into this microphone, if that is known (a headset)"),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("utterance", **kwargs)
        self._endpointer: Endpointer | None = None
        self._malformed = 0
        #: Newest streams whose end has been seen, and ids of the newest utterances: what a player waits for.
        self.ended_streams: deque[str] = deque(maxlen=8)
        self.published: deque[str] = deque(maxlen=256)

    def configure(self) -> None:
        """Build the end-pointer."""
        values = {param.name: self.value(param.name) for param in self.PARAMETERS}
        speaker_id = values.pop("speaker_id")
        self._endpointer = Endpointer(EndpointerConfig(**values), speaker_id, self.warn, self._publish_partial)

    def activate(self) -> None:
        """Listen."""
        self._publisher = self.advertise(msg.Utterance, "utterance", QOS_RESULT)
        self._partial = self.advertise(msg.Utterance, "utterance/partial", QOS_RESULT)
        self._frame_id = ""
        self.subscribe(msg.AudioChunk, "audio", self._on_audio, QOS_AUDIO_IN)
        self.subscribe(Bool, "robot_speaking", self._on_robot_speaking, QOS_RESULT)

    def deactivate(self) -> None:
        """Publish what is being said, as far as it was heard."""
        if self._endpointer is not None:
            self._publish(self._endpointer.flush())

    def cleanup(self) -> None:
        """Forget the stream."""
        self._endpointer = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell what was heard and what was lost."""
        if self._endpointer is None:
            return 0, "not configured", {}
        stream = self._endpointer.stream_counters
        values = {"malformed": self._malformed, **vars(stream), **vars(self._endpointer.counters)}
        if stream.lost or stream.not_finite or self._malformed:
            return 1, "the sound is damaged", values
        return 0, "speech" if self._endpointer.speaking else "silence", values

    def _on_audio(self, message: msg.AudioChunk) -> None:
        if self._endpointer is None:
            return
        try:
            chunk = chunk_from_msg(message)
        except ValueError as error:
            self._malformed += 1
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self._frame_id = message.header.frame_id
        self._publish(self._endpointer.push(chunk))
        if chunk.end_of_stream:
            self.ended_streams.append(chunk.stream_id)

    def _on_robot_speaking(self, message: Bool) -> None:
        if self._endpointer is not None:
            self._endpointer.set_gate(message.data, self.now())

    def _publish_partial(self, utterance: Utterance) -> None:
        self._partial.publish(utterance_to_msg(utterance, self._frame_id, self.now()))

    def _publish(self, utterances: list[Utterance]) -> None:
        for utterance in utterances:
            self.published.append(utterance.utterance_id)
            self._publisher.publish(utterance_to_msg(utterance, self._frame_id, self.now()))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(UtteranceNode, args)


if __name__ == "__main__":
    main()
