"""Node: ``utterance`` → ``transcript``; what a pause is taken for is transcribed inside it."""

from __future__ import annotations

from typing import Any, ClassVar

from std_msgs.msg import Header

from synctva_ros import msg
from synctva_ros.audio.transcriber import Transcriber, TranscriberConfig
from synctva_ros.events import EndedBy, Transcript, TranscriptStatus, Utterance
from synctva_ros.ros.convert import transcript_to_msg, utterance_from_msg
from synctva_ros.ros.node import QOS_RESULT, Param, PerceptionNode, run_node
from synctva_ros.ros.worker import Worker

DEFAULTS = TranscriberConfig()


class TranscriberNode(PerceptionNode):
    """Recognises the words of each utterance with Whisper; answers each one, if only to say that there are none."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("model", DEFAULTS.model, "Folder or name of a faster-whisper model; empty for no words"),
        Param("download", DEFAULTS.download, "Fetch a model that is not on this machine when configured"),
        Param(
            "device",
            DEFAULTS.device,
            "Where Whisper runs; auto takes CUDA if it works",
            choices=("auto", "cpu", "cuda"),
        ),
        Param(
            "compute_type",
            DEFAULTS.compute_type,
            "Arithmetic; auto takes the fastest that the device supports",
            choices=("auto", "int8", "int8_float32", "int8_float16", "float16", "bfloat16", "float32"),
        ),
        Param("threads", DEFAULTS.threads, "CPU threads of Whisper; 0 for half of the cores, at most 4", 0, 64),
        Param("language", DEFAULTS.language, "ISO 639-1 code of the language; empty to detect it"),
        Param("beam_size", DEFAULTS.beam_size, "Hypotheses kept while decoding; 1 is fastest", 1, 10),
        Param("min_rms", DEFAULTS.min_rms, "A quieter utterance has no words (full scale 1)", 0.0, 0.5),
        Param(
            "no_speech_threshold",
            DEFAULTS.no_speech_threshold,
            "Above this no-speech probability there are no words",
            0.0,
            1.0,
        ),
        Param(
            "logprob_threshold",
            DEFAULTS.logprob_threshold,
            "Words with a lower mean log-probability are dropped",
            -10.0,
            0.0,
        ),
        Param("queue_size", 64, "Utterances that may wait", 1, 1000),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("transcriber", **kwargs)
        self._transcriber: Transcriber | None = None
        self._worker: Worker[tuple[Header, Utterance, bool]] | None = None
        self._newest: Utterance | None = None  # the last that came; an earlier partial one is out of date
        self._done: tuple[Utterance, Transcript] | None = None  # the last partial one that was transcribed
        self._counts = dict.fromkeys((status.name.lower() for status in TranscriptStatus), 0)

    def configure(self) -> None:
        """Load the model and run it once."""
        values = {param.name: self.value(param.name) for param in self.PARAMETERS}
        del values["queue_size"]
        self._transcriber = Transcriber(TranscriberConfig(**values), self.inform, self.warn)

    def activate(self) -> None:
        """Start the worker and listen."""
        self._publisher = self.advertise(msg.Transcript, "transcript", QOS_RESULT)
        self._partial = self.advertise(msg.Transcript, "transcript/partial", QOS_RESULT)
        self._worker = Worker("transcriber", self._transcribe, self.value("queue_size"), self.report_error)
        self.subscribe(msg.Utterance, "utterance", self._on_utterance, QOS_RESULT)
        self.subscribe(msg.Utterance, "utterance/partial", self._on_partial, QOS_RESULT)

    def deactivate(self) -> None:
        """Stop the worker."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def cleanup(self) -> None:
        """Let go of the model."""
        self._transcriber = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell what runs where, and how it went."""
        if self._transcriber is None or self._worker is None:
            return 0, "inactive", {}
        values: dict[str, Any] = {"model": self._transcriber.model_id or "none", "device": self._transcriber.device}
        values |= {"waiting": self._worker.waiting, "dropped": self._worker.dropped, **self._counts}
        if self._worker.dropped:
            return 2, "utterances come faster than they are recognised", values
        return (0, "recognising", values) if self._transcriber.model_id else (1, "no words: no model", values)

    def _on_partial(self, message: msg.Utterance) -> None:
        assert self._worker is not None
        if message.ended_by == EndedBy.SPEAKING:
            return
        self._newest = utterance_from_msg(message)
        self._worker.put((message.header, self._newest, False))

    def _on_utterance(self, message: msg.Utterance) -> None:
        assert self._worker is not None
        self._newest = utterance_from_msg(message)
        if not self._worker.put((message.header, self._newest, True)):
            self.get_logger().error(f"too many utterances wait: {message.utterance_id} goes on without words")
            self._publish(Transcript(message.utterance_id, TranscriptStatus.FAILED), message.header)

    def _transcribe(self, item: tuple[Header, Utterance, bool]) -> None:
        assert self._transcriber is not None
        header, utterance, is_over = item
        if not is_over:
            if utterance is self._newest:
                self._done = utterance, self._transcriber.transcribe(utterance)
                self._partial.publish(transcript_to_msg(self._done[1], header))
            return
        done, self._done = self._done, None
        if done is not None and done[0].is_same_sound(utterance):
            self._publish(done[1], header)
        else:
            self._publish(self._transcriber.transcribe(utterance), header)

    def _publish(self, transcript: Transcript, header: Header) -> None:
        self._counts[transcript.status.name.lower()] += 1
        self._publisher.publish(transcript_to_msg(transcript, header))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(TranscriberNode, args)


if __name__ == "__main__":
    main()
