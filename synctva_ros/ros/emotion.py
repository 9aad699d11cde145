"""Node: ``features`` → ``emotion``; partial ones give a provisional estimate, or one that is ready when it counts."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, ClassVar

from std_srvs.srv import Trigger

from synctva_ros import msg
from synctva_ros.defaults import SHIPPED_WEIGHTS, UNCERTAIN_BELOW
from synctva_ros.events import EndedBy, Estimate, Features, Status
from synctva_ros.ros.convert import emotion_to_msg, features_from_msg
from synctva_ros.ros.node import QOS_LATCHED, QOS_RESULT, Param, PerceptionNode, run_node
from synctva_ros.ros.worker import Worker

#: Who warns of what the node should say.
LOGGERS = (logging.getLogger("synctva_ros.network.rolling"), logging.getLogger("synctva_ros.network"))


class _ToRos(logging.Handler):
    """Takes the core's warnings to the node's log."""

    def __init__(self, node: EmotionNode) -> None:
        super().__init__(logging.WARNING)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        self._node.warn(record.getMessage())


class EmotionNode(PerceptionNode):
    """Runs Sync-TVA over the rolling dialogue."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("weights", "", "Folder of the network's weights; empty for the ones that come with the package"),
        Param(
            "device", "auto", "Where the network runs; auto takes CUDA if there is one", choices=("auto", "cpu", "cuda")
        ),
        Param("threads", 1, "CPU threads of the network", 1, 64),
        Param("max_turns", 32, "Utterances that the dialogue remembers", 1, 1000),
        Param("max_age", 600.0, "Utterances are remembered so long [s]", 1.0, 86400.0),
        Param("pause", 60.0, "A longer silence starts a new dialogue [s]", 1.0, 86400.0),
        Param("uncertain_below", UNCERTAIN_BELOW, "With less confidence the message says UNCERTAIN", 0.0, 1.0),
        Param("queue_size", 64, "Utterances that may wait", 1, 1000),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("emotion", **kwargs)
        self._dialogue: Any = None
        self._device = ""
        self._worker: Worker[tuple[msg.UtteranceFeatures, bool] | None] | None = None
        self._handler: _ToRos | None = None
        self._newest: msg.UtteranceFeatures | None = None  # the last that came; an earlier partial one is out of date
        self._over: deque[str] = deque(maxlen=64)  # what comes late of an utterance that is over is left out
        self._counts = {"provisional": 0, "final": 0, "uncertain": 0, "refused": 0}

    def configure(self) -> None:
        """Load the weights and run the network once."""
        import torch

        from synctva_ros.network.rolling import RollingDialogue

        wanted = self.value("device")
        self._device = "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
        if wanted == "cuda" and self._device == "cpu":
            self.warn("torch finds no CUDA device: the network runs on the CPU")
        torch.set_num_threads(self.value("threads"))
        self._dialogue = RollingDialogue.from_weights(
            self.value("weights") or SHIPPED_WEIGHTS,
            device=self._device,
            max_turns=self.value("max_turns"),
            max_age=self.value("max_age"),
            pause=self.value("pause"),
        )
        self._handler = _ToRos(self)
        for logger in LOGGERS:
            logger.addHandler(self._handler)
        self._dialogue.warm_up()
        self.inform(f"weights {self._dialogue.model_id!r} run on {self._device}, {self.value('threads')} thread(s)")

    def activate(self) -> None:
        """Start the worker, latch the label table and listen."""
        self._uncertain_below: float = self.value("uncertain_below")
        self._publisher = self.advertise(msg.Emotion, "emotion", QOS_RESULT)
        table = self.advertise(msg.LabelTable, "emotion/labels", QOS_LATCHED)
        table.publish(msg.LabelTable(model_id=self._dialogue.model_id, labels=list(self._dialogue.labels)))
        self._worker = Worker(
            "emotion", self._estimate, self.value("queue_size"), self._on_error, prepare=self._set_threads
        )
        self.subscribe(msg.UtteranceFeatures, "features", self._on_features, QOS_RESULT)
        self.subscribe(msg.UtteranceFeatures, "features/partial", self._on_partial, QOS_RESULT)
        self.serve(Trigger, "~/reset", self._on_reset)

    def deactivate(self) -> None:
        """Stop the worker."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def cleanup(self) -> None:
        """Forget the dialogue and the network."""
        if self._handler is not None:
            for logger in LOGGERS:
                logger.removeHandler(self._handler)
            self._handler = None
        self._dialogue = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell what runs where, and how it went."""
        if self._dialogue is None or self._worker is None:
            return 0, "inactive", {}
        values: dict[str, Any] = {"weights": self._dialogue.model_id, "device": self._device, **self._counts}
        values |= {"waiting": self._worker.waiting, "dropped": self._worker.dropped}
        if self._worker.dropped:
            return 2, "utterances come faster than they are estimated", values
        return (1, "features were refused", values) if self._counts["refused"] else (0, "estimating", values)

    def _set_threads(self) -> None:
        import torch

        torch.set_num_threads(self.value("threads"))  # OpenMP keeps the number per thread

    def _on_partial(self, message: msg.UtteranceFeatures) -> None:
        if self._worker is not None:
            self._newest = message
            self._worker.put((message, False))

    def _on_features(self, message: msg.UtteranceFeatures) -> None:
        self._newest = message
        if self._worker is not None and not self._worker.put((message, True)):
            self.get_logger().error(f"too many utterances wait: {message.utterance_id} is lost")

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Forget the dialogue after what already waits."""
        response.success = self._worker is not None and self._worker.put(None)
        response.message = "the next utterance starts a new dialogue" if response.success else "not active"
        return response

    def _estimate(self, item: tuple[msg.UtteranceFeatures, bool] | None) -> None:
        if item is None:
            self._dialogue.reset()
            return
        message, is_over = item
        features = features_from_msg(message)
        if is_over:
            self._over.append(features.utterance_id)
            estimate = self._dialogue.add(features)
            certain = estimate.confidence >= self._uncertain_below
            self._publish(estimate, features, Status.FINAL if certain else Status.UNCERTAIN, message.header.frame_id)
        elif message is self._newest and features.utterance_id not in self._over:
            estimate = self._dialogue.preview(features)
            if features.ended_by == EndedBy.SPEAKING:
                self._publish(estimate, features, Status.PROVISIONAL, message.header.frame_id)

    def _publish(self, estimate: Estimate, features: Features, status: Status, frame_id: str) -> None:
        self._counts[status.name.lower()] += 1
        self._publisher.publish(emotion_to_msg(estimate, features, status, frame_id, self.now()))

    def _on_error(self, error: Exception) -> None:
        self._counts["refused"] += 1
        self.report_error(error)


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(EmotionNode, args)


if __name__ == "__main__":
    main()
