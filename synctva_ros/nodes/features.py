"""Node: ``utterance`` + ``transcript`` + ``image`` → ``features``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, ClassVar

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from synctva_ros import msg
from synctva_ros.defaults import TEXT_ADAPTER
from synctva_ros.nodes.base import QOS_IMAGE_IN, QOS_RESULT, Param, PerceptionNode, run_node
from synctva_ros.nodes.messages import (
    features_to_msg,
    from_time,
    image_from_msg,
    transcript_from_msg,
    utterance_from_msg,
)
from synctva_ros.nodes.worker import Worker
from synctva_ros.types import Transcript

#: Transcripts kept for utterances that have not come yet: topics may overtake each other.
TRANSCRIPTS_KEPT = 64
#: Pictures that wait for the face detector; the latest win.
PICTURES_WAITING = 4
#: Wait at most so long for the detector to reach the end of the utterance [s].
FACE_TIMEOUT = 0.5


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
        self._utterances: Worker[msg.Utterance] | None = None
        self._pictures: Worker[Image] | None = None
        self._transcripts: OrderedDict[str, Transcript] = OrderedDict()
        self._arrived = threading.Condition()
        self._looked_at = 0  # stamp of the newest picture that the detector has seen [ns]
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
            self.get_logger().info(f"faces are found by {detector.name}")
            self._track = FaceTrack(detector, seconds=self.value("face_memory"), attend=self._attended())
        self._extractor = FeatureExtractor(text, AudioEncoder(), face)
        self._extractor.warm_up()

    def activate(self) -> None:
        """Start the workers and listen."""
        self._publisher = self.advertise(msg.UtteranceFeatures, "features", QOS_RESULT)
        self._processed = self.advertise(Header, "image/processed", QOS_RESULT)
        self._stopping = False
        self._utterances = Worker(
            "features", self._extract, self.value("queue_size"), self.report_error, prepare=self._set_threads
        )
        self.subscribe(msg.Transcript, "transcript", self._on_transcript, QOS_RESULT)
        self.subscribe(msg.Utterance, "utterance", self._on_utterance, QOS_RESULT)
        if self._track is not None:
            self._pictures = Worker(
                "faces", self._look, PICTURES_WAITING, self.report_error, latest_wins=True, prepare=self._set_threads
            )
            self.subscribe(Image, "image", self._on_image, QOS_IMAGE_IN)

    def deactivate(self) -> None:
        """Stop the workers."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify_all()
        for worker in (self._utterances, self._pictures):
            if worker is not None:
                worker.stop()
        self._utterances = self._pictures = None
        self._transcripts.clear()

    def cleanup(self) -> None:
        """Let go of the encoders and of all faces."""
        self._extractor = self._track = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell what was seen and what had to be left out."""
        values: dict[str, Any] = dict(self._counts)
        level, sentence = 0, "encoding"
        if self._pictures is not None and self._track is not None:
            values |= {"pictures skipped": self._pictures.dropped, "faces in view": self._track.faces}
        if self._utterances is not None:
            values |= {"waiting": self._utterances.waiting, "dropped": self._utterances.dropped}
            if self._utterances.dropped:
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
        cv2.setNumThreads(1)

    # --- pictures

    def _on_image(self, message: Image) -> None:
        if self._pictures is not None:
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
        with self._arrived:
            self._looked_at = stamp
            self._arrived.notify_all()
        self._processed.publish(message.header)

    # --- utterances

    def _on_transcript(self, message: msg.Transcript) -> None:
        with self._arrived:
            self._transcripts[message.utterance_id] = transcript_from_msg(message)
            while len(self._transcripts) > TRANSCRIPTS_KEPT:
                self._transcripts.popitem(last=False)
            self._arrived.notify_all()

    def _on_utterance(self, message: msg.Utterance) -> None:
        if self._utterances is not None and not self._utterances.put(message):
            self.get_logger().error(f"too many utterances wait: {message.utterance_id} is lost")

    def _extract(self, message: msg.Utterance) -> None:
        utterance = utterance_from_msg(message)
        voice = self._extractor.voice(utterance)
        frames_seen, observations = 0, []
        if self._track is not None:
            self._wait(lambda: self._looked_at >= utterance.end or not self._looking(), FACE_TIMEOUT)
            frames_seen, observations = self._track.between(utterance.start, utterance.end)
        features = self._extractor.features(
            utterance,
            voice,
            self._words_of(utterance.utterance_id),
            frames_seen,
            observations,
            float(message.endpoint_duration),
        )
        self._counts["utterances"] += 1
        if not self._stopping:
            self._publisher.publish(features_to_msg(features, message.header.frame_id))

    def _looking(self) -> bool:
        return self._pictures is not None and self._pictures.busy

    def _words_of(self, utterance_id: str) -> Transcript | None:
        timeout = self.value("transcript_timeout") if self.count_publishers("transcript") else 0.0
        if not self._wait(lambda: utterance_id in self._transcripts, timeout) and not self._stopping and timeout:
            self._counts["without words in time"] += 1
            self.warn(f"no transcript of {utterance_id} within {timeout:g} s; it goes on without words")
        with self._arrived:
            return self._transcripts.pop(utterance_id, None)

    def _wait(self, condition: Any, seconds: float) -> bool:
        with self._arrived:
            return bool(self._arrived.wait_for(lambda: self._stopping or condition(), seconds))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(FeaturesNode, args)


if __name__ == "__main__":
    main()
