"""Features → how the speaker feels, in the dialogue so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from synctva_ros.config import Dialogue
from synctva_ros.events import Emotion, EndedBy, Features, Reset, Status
from synctva_ros.network.rolling import Ahead, RollingDialogue
from synctva_ros.plural import counted
from synctva_ros.street.stage import Log, State, Transform
from synctva_ros.weights import SHIPPED_WEIGHTS


class DialogueStage(Transform[Features, Ahead]):
    """Sync-TVA over the rolling dialogue.

    What a pause is taken for is estimated ahead, without an answer; what has been said so far gets a provisional one.
    """

    name: ClassVar[str] = "dialogue"
    takes: ClassVar[tuple[type, ...]] = (Features, Reset)

    def __init__(self, config: Dialogue, log: Log) -> None:
        import torch

        super().__init__(log)
        self._config = config
        self._device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
        if config.device == "cuda" and self._device == "cpu":
            log.warning("torch finds no CUDA device: the network runs on the CPU")
        self._dialogue = RollingDialogue.from_weights(
            config.weights or SHIPPED_WEIGHTS,
            device=self._device,
            max_turns=config.max_turns,
            max_age=config.max_age,
            pause=config.pause,
        )
        log.info(f"weights {self.model_id!r} run on {self._device}, {counted(config.threads, 'thread')}")
        self.counts.update({status.name.lower(): 0 for status in Status})

    @property
    def model_id(self) -> str:
        """Name and version of the weights."""
        return self._dialogue.model_id

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of ``Emotion.probabilities``."""
        return self._dialogue.labels

    def warm_up(self) -> None:
        """Run the network."""
        self._dialogue.warm_up()

    def reset(self) -> None:
        """Forget the dialogue."""
        super().reset()
        self._dialogue.reset()

    def is_over(self, event: Features | Reset) -> bool:
        """A reset belongs to no utterance."""
        return False if isinstance(event, Reset) else super().is_over(event)

    def process(self, event: Features | Reset) -> Iterable[Any]:
        """Estimate, or forget the dialogue after what came before."""
        if isinstance(event, Reset):
            self._dialogue.reset()
            return ()
        return super().process(event)

    def work(self, event: Features) -> Ahead:
        """Estimate, without taking the utterance into the dialogue yet."""
        return self._dialogue.look(event)

    def nothing(self, event: Features) -> Ahead:
        """The estimate of an utterance of which nothing is known."""
        return self._dialogue.look(event.stripped())

    def answer(self, event: Features, result: Ahead) -> Iterator[Emotion]:
        """A final answer is taken into the dialogue."""
        if event.is_final:
            estimate = self._dialogue.take(result)
            # Without any modality there is nothing to act on, whatever the threshold.
            is_certain = estimate.modalities and estimate.confidence >= self._config.uncertain_below
            status = Status.FINAL if is_certain else Status.UNCERTAIN
        elif event.ended_by == EndedBy.SPEAKING:
            estimate, status = result.estimate, Status.PROVISIONAL
        else:
            return
        self.counts[status.name.lower()] += 1
        yield Emotion(
            end=event.end,
            frame_id=event.frame_id,
            start=event.start,
            utterance_id=event.utterance_id,
            dialogue_id=estimate.dialogue_id,
            speaker_id=event.speaker_id,
            face_id=event.face_id,
            person_id=event.person_id,
            turn=estimate.turn,
            stream_id=event.stream_id,
            stream_start=event.stream_start,
            stream_end=event.stream_end,
            overlap=event.overlap,
            text=event.text,
            label=estimate.label,
            labels=estimate.labels,
            probabilities=estimate.probabilities,
            confidence=estimate.confidence,
            status=status,
            valence=math.nan,  # not estimated
            arousal=math.nan,
            modalities=estimate.modalities,
            contributions=estimate.contributions,
            context_ids=tuple(identity for identity, _ in estimate.context),
            context_weights=tuple(weight for _, weight in estimate.context),
            durations=event.durations,
            work=event.work | {"network": estimate.duration},
            model_id=estimate.model_id,
        )

    def state(self) -> State:
        """Whether it estimates."""
        state = super().state()
        return state if state.level else State(0, "estimating")

    def details(self) -> dict[str, Any]:
        """What runs where, and how it went."""
        return {"weights": self.model_id, "device": self._device} | super().details()
