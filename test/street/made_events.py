"""Events of a street where a test wants them, and encoders that say what they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from synctva_ros.events import (
    EndedBy,
    Evidence,
    Face,
    Faces,
    Features,
    FloatArray,
    Transcript,
    TranscriptStatus,
    Utterance,
)

SECOND = 1_000_000_000
RATE = 10


class Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.info, self.warning, self.error = self.infos.append, self.warnings.append, self.errors.append


class Fragile:
    """Counts how often it works, and raises while it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_broken = False

    def work(self) -> None:
        self.calls += 1
        if self.is_broken:
            raise RuntimeError("broken")


class TextStub(Fragile):
    """The vector of a text is its length."""

    name, width = "text-stub", 1

    def __init__(self, *languages: str) -> None:
        super().__init__()
        self.languages = languages

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.work()
        return np.array([[float(len(text))] for text in texts], np.float32)


class VoiceStub(Fragile):
    """The vector of a sound is its sum; None for no sound but zeros."""

    name, width = "voice-stub", 1

    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        self.work()
        return np.array([samples.sum()], np.float32) if samples.any() else None


class FaceStub(Fragile):
    """The vector of a crop is its mean."""

    name, width, side, labels = "face-stub", 1, 48, ()

    def encode(self, crops: Sequence[Any]) -> FloatArray:
        self.work()
        return np.array([[crop.mean()] for crop in crops], np.float32)


def utterance(
    number: int, end: float = 2.0, *, is_final: bool = True, ended_by: EndedBy = EndedBy.PAUSE, **fields: Any
) -> Utterance:
    """The ``number``-th utterance, from 10 ``number`` seconds on, as far as it was heard ``end`` seconds later.

    It has half a second of sound before and after it.
    """
    start = 10 * number
    given: dict[str, Any] = {
        "utterance_id": f"m_{number}",
        "stream_id": "m",
        "first_sequence": 0,
        "last_sequence": 1,
        "start": start * SECOND,
        "end": round((start + end) * SECOND),
        "stream_start": float(start),
        "stream_end": float(start + end),
        "ended_by": ended_by,
        "samples_start": start * SECOND - SECOND // 2,
        "sample_rate": RATE,
        "samples": np.arange(round(RATE * (end + 1.0)), dtype=np.float32),
        "rms": 0.1,
        "clipped": False,
        "frame_id": "room",
        "is_final": is_final,
    }
    return Utterance(**(given | fields))


def speaking(number: int, end: float = 2.0) -> Utterance:
    """What was said so far of an utterance that goes on."""
    return utterance(number, end, is_final=False, ended_by=EndedBy.SPEAKING)


def pausing(number: int, end: float = 2.0) -> Utterance:
    """An utterance as it is if the pause that has begun holds."""
    return utterance(number, end, is_final=False)


def transcript(number: int, text: str = "some words", end: float = 2.0, **fields: Any) -> Transcript:
    given: dict[str, Any] = {
        "utterance_id": f"m_{number}",
        "end": round((10 * number + end) * SECOND),
        "status": TranscriptStatus.OK if text else TranscriptStatus.SILENCE,
        "text": text,
        "duration": 0.25,
    }
    return Transcript(**(given | fields))


def evidence(
    number: int, modality: str = "text", value: float | None = 1.0, end: float = 2.0, **fields: Any
) -> Evidence:
    given: dict[str, Any] = {
        "utterance_id": f"m_{number}",
        "end": round((10 * number + end) * SECOND),
        "modality": modality,
        "vector": None if value is None else np.array([value], np.float32),
        "encoder": "" if value is None else f"{modality}-stub",
        "text": f"words of {value}" if modality == "text" else "",
        "work": {modality: 0.5},
    }
    return Evidence(**(given | fields))


def face(face_id: str = "f1", value: float | None = 1.0, *, quality: float = 0.8, **fields: Any) -> Face:
    """A face in the middle of the image, a fifth as wide and high; without a value its expression cannot be read."""
    given: dict[str, Any] = {
        "x": 0.4,
        "y": 0.4,
        "width": 0.2,
        "height": 0.2,
        "score": 0.9,
        "quality": quality,
        "expression": None if value is None else np.array([value], np.float32),
    }
    return Face(face_id, **(given | fields))


def report(seconds: float, *faces: Face, **fields: Any) -> Faces:
    """The faces in the image taken at so many seconds."""
    given: dict[str, Any] = {"looked_at": True, "height": 480, "width": 640, "encoder": "face-stub", "duration": 0.01}
    return Faces(round(seconds * SECOND), faces=faces, **(given | fields))


def features(number: int, *, is_final: bool = True, ended_by: EndedBy = EndedBy.PAUSE, **fields: Any) -> Features:
    given: dict[str, Any] = {
        "utterance_id": f"m_{number}",
        "start": 10 * number * SECOND,
        "end": (10 * number + 2) * SECOND,
        "is_final": is_final,
        "ended_by": ended_by,
    }
    return Features(**(given | fields))


def taken(stage: Any, *events: Any) -> list[Any]:
    """All that a stage gives for events."""
    return [given for event in events for given in stage.take(event)]


def only(events: Iterable[Any]) -> Any:
    """The one event that there is."""
    (event,) = events
    return event


def until(condition: Callable[[], bool], wait: Callable[[float], Any]) -> None:
    """Wait for a condition, which may take long on a busy machine."""
    for _ in range(6000):
        if condition():
            return
        wait(0.01)
    raise AssertionError("it did not happen within a minute")
