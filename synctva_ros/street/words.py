"""Utterance → its words, or why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from synctva_ros.audio.transcriber import Transcriber
from synctva_ros.config import Words
from synctva_ros.events import EndedBy, Transcript, TranscriptStatus, Utterance
from synctva_ros.street.stage import Log, State, Transform


class WordsStage(Transform[Utterance, Transcript]):
    """The speech recogniser. Every utterance gets a transcript; so does what a pause is taken for, inside the pause."""

    name: ClassVar[str] = "words"
    takes: ClassVar[tuple[type, ...]] = (Utterance,)

    def __init__(self, config: Words, log: Log) -> None:
        super().__init__(log)
        self._transcriber = Transcriber(config, log.info, log.warning)
        self.counts.update(dict.fromkeys((status.name.lower() for status in TranscriptStatus), 0))

    def is_wanted(self, event: Utterance) -> bool:
        """Whisper pads to 30 s: while someone speaks it would be busy with beginnings when the end comes."""
        return event.is_final or event.ended_by != EndedBy.SPEAKING

    def work(self, event: Utterance) -> Transcript:
        """Recognise."""
        return self._transcriber.transcribe(event)

    def nothing(self, event: Utterance) -> Transcript:
        """The recogniser failed."""
        return Transcript(event.utterance_id, event.end, TranscriptStatus.FAILED, frame_id=event.frame_id)

    def answer(self, event: Utterance, result: Transcript) -> Iterator[Transcript]:
        """The transcript, of what is over or not."""
        if event.is_final:
            self.counts[result.status.name.lower()] += 1
        yield replace(result, is_final=event.is_final)

    def state(self) -> State:
        """Whether there is a model."""
        state = super().state()
        return state if state.level or self._transcriber.model_id else State(1, "no words: no model")

    def details(self) -> dict[str, Any]:
        """What runs where, and how it went."""
        return {"model": self._transcriber.model_id or "none", "device": self._transcriber.device} | super().details()
