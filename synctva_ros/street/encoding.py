"""What the stages of voice and words share: an encoder that turns an event into a vector, or into nothing to go by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Generic

from synctva_ros.encoders.protocol import AudioEncoder, TextEncoder
from synctva_ros.events import Evidence, FloatArray
from synctva_ros.street.stage import E, Transform


class Encoding(Transform[E, Evidence], Generic[E]):
    """Gives one ``Evidence`` for each event."""

    modality: ClassVar[str]
    encoder: AudioEncoder | TextEncoder

    def nothing(self, event: E) -> Evidence:
        """There is nothing to go by."""
        return self.evidence(event, None, {})

    def answer(self, event: E, result: Evidence) -> Iterator[Evidence]:
        """What was found, of what is over or not."""
        yield replace(result, end=event.end, is_final=event.is_final)

    def encoded(self, event: E, encode: Callable[[], FloatArray | None]) -> Evidence:
        """What ``encode`` gives for the event, and how long it took."""
        begun = time.perf_counter()
        vector = encode()
        return self.evidence(event, vector, {self.modality: time.perf_counter() - begun})

    def evidence(self, event: Any, vector: FloatArray | None, work: dict[str, float]) -> Evidence:
        """The answer to an event."""
        name = "" if vector is None else self.encoder.name
        return Evidence(event.utterance_id, event.end, self.modality, vector, name, work=work)
