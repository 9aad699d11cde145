"""Node: ``utterance`` + ``transcript`` + ``image`` → ``features``; the same of partial ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from synctva_ros import msg
from synctva_ros.defaults import TEXT_ADAPTER
from synctva_ros.encoders.assembler import FeatureAssembler, Pictures
from synctva_ros.events import NANOSECONDS, Features
from synctva_ros.ros.convert import (
    features_to_msg,
    from_time,
    image_from_msg,
    transcript_from_msg,
    utterance_from_msg,
)
from synctva_ros.ros.node import QOS_IMAGE_IN, QOS_RESULT, Param, PerceptionNode, run_node
from synctva_ros.ros.worker import Worker

#: Pictures that wait for the face detector; the latest win.
PICTURES_WAITING = 4


class FeaturesNode(PerceptionNode):
    """Encodes words, voice and face of each utterance; faces are found as pictures come, on a thread of their own."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param(
            "text_encoder",
            "",
            "Folder or hub name of the sentence encoder; empty for the one installed with the package",
        ),
        Param(
            "text_adapter",
            TEXT_ADAPTER,
            "What it was taught: a shipped adapter or a folder; empty for nothing",
        ),
        Param("threads", 1, "CPU threads of the encoders", 1, 64),
        Param("vision", True, "Look at faces"),
        Param(
            "face_detector",
            "",
            "Path of a YuNet ONNX file, or haar for OpenCV's cascade; empty for the YuNet at hand, else the cascade",
        ),
        Param("face_rate", 10.0, "Faces are looked for in so many pictures per second at the most [Hz]", 0.1, 120.0),
        Param("attend_x", -1.0, "Follow the face nearest to here, in shares of the width; -1: the largest", -1.0, 1.0),
        Param("attend_y", -1.0, "The same in shares of the height, 0 at the top; -1: the largest", -1.0, 1.0),
        Param("face_memory", 60.0, "Faces are remembered so long [s]", 5.0, 600.0),
        Param("transcript_timeout", 10.0, "Wait at most so long for the words of an utterance [s]", 0.0, 120.0),
        Param("queue_size", 64, "Utterances that may wait", 1, 1000),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("features", **kwargs)
        self._extractor: Any = None
        self._track: Any = None
        self._assembler: Any = None  # FeatureAssembler while active
        self._steps: Worker[Callable[[], None]] | None = None
        self._pictures: Worker[Image] | None = None
        self._newest: msg.Utterance | None = None  # the last that came; an earlier partial one is out of date
        self._arrived = 0  # stamp of the newest picture that has come and is to be looked at [ns]
        self._looked_at = 0  # stamp of the newest picture that the detector has seen [ns]
        self._awaited = False  # whether an utterance waits for the detector
        self._counts = {"utterances": 0, "pictures": 0, "bad pictures": 0, "without words in time": 0}

    def configure(self) -> None:
        """Load the encoders and run them once."""
        from synctva_ros.encoders.audio import AudioEncoder
        from synctva_ros.encoders.extractor import FeatureExtractor
        from synctva_ros.encoders.face import FaceDetector, FaceEncoder, FaceTrack
        from synctva_ros.encoders.text import TextEncoder

        text = TextEncoder(
            self.value("text_encoder"), threads=self.value("threads"), adapter=self.value("text_adapter")
        )
        face = None
        if self.value("vision"):
            face = FaceEncoder()
            detector = FaceDetector(self.value("face_detector"))
            self.inform(f"faces are found by {detector.name}")
            self._track = FaceTrack(detector, seconds=self.value("face_memory"), attend=self._attended())
        self._extractor = FeatureExtractor(text, AudioEncoder(), face)
        self._extractor.warm_up()
        self.inform(f"the encoders run on {self.value('threads')} thread(s), the face detector on one")

    def activate(self) -> None:
        """Start the workers and listen."""
        self._publisher = self.advertise(msg.UtteranceFeatures, "features", QOS_RESULT)
        self._partial = self.advertise(msg.UtteranceFeatures, "features/partial", QOS_RESULT)
        self._processed = self.advertise(Header, "image/processed", QOS_RESULT)
        self._frame_id = ""
        # A camera that gives no more pictures than this does not keep time: none of its pictures shall be left out.
        self._between_looks = 0.8 / self.value("face_rate") * NANOSECONDS
        timeout = self.value("transcript_timeout")
        self._assembler = FeatureAssembler(
            self._extractor,
            self._seen,
            lambda: timeout > 0 and self.count_publishers("transcript") > 0,
            timeout,
            lambda features: self._partial.publish(features_to_msg(features, self._frame_id)),
            self._publish,
            self._without_words,
        )
        self._steps = Worker(
            "features",
            lambda step: step(),
            self.value("queue_size"),
            self.report_error,
            prepare=self._set_threads,
            due=lambda: self._assembler.due,
            on_due=self._assembler.advance,
        )
        self.subscribe(msg.Transcript, "transcript", self._on_transcript, QOS_RESULT)
        self.subscribe(msg.Transcript, "transcript/partial", self._on_partial_transcript, QOS_RESULT)
        self.subscribe(msg.Utterance, "utterance", self._on_utterance, QOS_RESULT)
        self.subscribe(msg.Utterance, "utterance/partial", self._on_partial, QOS_RESULT)
        if self._track is not None:
            self._pictures = Worker(
                "faces", self._look, PICTURES_WAITING, self.report_error, latest_wins=True, prepare=self._set_threads
            )
            self.subscribe(Image, "image", self._on_image, QOS_IMAGE_IN)

    def deactivate(self) -> None:
        """Stop the workers."""
        for worker in (self._pictures, self._steps):
            if worker is not None:
                worker.stop()
        self._steps = self._pictures = self._assembler = None

    def cleanup(self) -> None:
        """Let go of the encoders and of all faces."""
        self._extractor = self._track = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell what was seen and what had to be left out."""
        values: dict[str, Any] = dict(self._counts)
        level, sentence = 0, "encoding"
        if self._pictures is not None and self._track is not None:
            values |= {"pictures skipped": self._pictures.dropped, "faces in view": self._track.faces}
        if self._steps is not None:
            values |= {"waiting": self._steps.waiting, "dropped": self._steps.dropped}
            if self._steps.dropped:
                level, sentence = 2, "utterances come faster than they are encoded"
        if self._counts["bad pictures"]:
            level, sentence = max(level, 1), "pictures cannot be read"
        return level, sentence, values

    def _attended(self) -> tuple[float, float] | None:
        x, y = self.value("attend_x"), self.value("attend_y")
        if x == y == -1:
            return None
        if min(x, y) < 0:
            raise ValueError(f"attend_x is {x:g} and attend_y is {y:g}: give both from 0 to 1, or both -1")
        return x, y

    def _set_threads(self) -> None:
        import cv2
        import torch

        torch.set_num_threads(self.value("threads"))
        cv2.setNumThreads(1)  # pictures are small: more threads would only take the cores from Whisper

    # --- pictures

    def _on_image(self, message: Image) -> None:
        if self._pictures is None:
            return
        stamp = from_time(message.header.stamp)
        if 0 <= stamp - self._arrived < self._between_looks:
            self._processed.publish(message.header)
            return
        self._arrived = stamp
        self._pictures.put(message)

    def _look(self, message: Image) -> None:
        stamp = from_time(message.header.stamp)
        self._counts["pictures"] += 1
        try:
            image = image_from_msg(message)
            if stamp <= self._looked_at:
                self._track.clear()  # the clock was set back, or a file is played again
            self._track.observe(stamp, image)
        except ValueError as error:
            self._counts["bad pictures"] += 1
            self.get_logger().warning(f"picture left out: {error}", throttle_duration_sec=5.0)
        self._looked_at = stamp
        if self._awaited and self._steps is not None:
            self._steps.put(self._assembler.advance)
        self._processed.publish(message.header)

    def _seen(self, start: int, end: int) -> Pictures:
        if self._track is None:
            return Pictures()
        self._awaited = True  # before the look, so that no picture slips through in between
        complete = self._looked_at >= min(end, self._arrived)
        self._awaited = not complete
        seen, observations = self._track.between(start, end)
        return Pictures(seen, observations, complete)

    # --- utterances

    def _on_partial(self, message: msg.Utterance) -> None:
        if self._steps is not None:
            self._newest = message
            self._steps.put(partial(self._take_partial, message))

    def _take_partial(self, message: msg.Utterance) -> None:
        if message is self._newest:
            self._frame_id = message.header.frame_id
            self._assembler.partial(utterance_from_msg(message), float(message.endpoint_duration))

    def _on_utterance(self, message: msg.Utterance) -> None:
        self._newest = message
        if self._steps is not None and not self._steps.put(partial(self._take, message)):
            self.get_logger().error(f"too many utterances wait: {message.utterance_id} is lost")

    def _take(self, message: msg.Utterance) -> None:
        self._frame_id = message.header.frame_id
        self._assembler.utterance(utterance_from_msg(message), float(message.endpoint_duration))

    def _on_transcript(self, message: msg.Transcript) -> None:
        if self._steps is not None:
            self._steps.put(partial(self._assembler.transcript, transcript_from_msg(message)))

    def _on_partial_transcript(self, message: msg.Transcript) -> None:
        if self._steps is not None:
            end = from_time(message.header.stamp)
            self._steps.put(partial(self._assembler.transcript, transcript_from_msg(message), end))

    def _publish(self, features: Features) -> None:
        self._counts["utterances"] += 1
        self._publisher.publish(features_to_msg(features, self._frame_id))

    def _without_words(self, utterance_id: str) -> None:
        self._counts["without words in time"] += 1
        self.warn(
            f"no transcript of {utterance_id} within {self.value('transcript_timeout'):g} s; it goes on without words"
        )


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(FeaturesNode, args)


if __name__ == "__main__":
    main()
