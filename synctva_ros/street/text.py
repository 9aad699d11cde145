"""Transcript → what its words tell."""

from __future__ import annotations

from typing import Any, ClassVar

from synctva_ros.encoders.protocol import TextEncoder
from synctva_ros.events import Evidence, FloatArray, Transcript, TranscriptStatus
from synctva_ros.street.encoding import Encoding
from synctva_ros.street.stage import Log


class TextStage(Encoding[Transcript]):
    """The text encoder; words of a language that it does not know have no vector."""

    name: ClassVar[str] = "text"
    modality: ClassVar[str] = "text"
    takes: ClassVar[tuple[type, ...]] = (Transcript,)

    def __init__(self, encoder: TextEncoder, log: Log) -> None:
        super().__init__(log)
        self.encoder: TextEncoder = encoder
        self._foreign: set[str] = set()

    def warm_up(self) -> None:
        """Two words."""
        self.encoder.encode(["warm up"])

    def work(self, event: Transcript) -> Evidence:
        """Encode the words, if they are of a language that the encoder knows."""
        if event.status != TranscriptStatus.OK or not event.text:
            return self.nothing(event)
        if event.language and self.encoder.languages and event.language not in self.encoder.languages:
            self.counts["foreign"] += 1
            if event.language not in self._foreign:
                self._foreign.add(event.language)
                self.log.warning(
                    f"words in {event.language!r} are left out of the estimate: the encoder {self.encoder.name!r} "
                    f"knows {', '.join(self.encoder.languages)}; set features.text_encoder to one that knows it"
                )
            return self.nothing(event)
        return self.encoded(event, lambda: self.encoder.encode([event.text])[0])

    def evidence(self, event: Any, vector: FloatArray | None, work: dict[str, float]) -> Evidence:
        """The answer to a transcript, with its words and the time that it took to recognise them."""
        evidence = super().evidence(event, vector, {"transcribe": event.duration} | work if event.text else work)
        return Evidence(**(vars(evidence) | {"text": event.text}))
