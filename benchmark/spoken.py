"""The speech of the latency benchmarks: the demo dialogue, whose ends of speech are known exactly, again and again."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synctva_ros.config import DEMO
from synctva_ros.events import AudioChunk, FloatArray
from synctva_ros.sources.media import MediaFile

SAMPLE_RATE = 16_000
#: Silence between two rounds of the dialogue, besides the dialogue's own before and after it [s].
BETWEEN = 1.5


class Turn(NamedTuple):
    """What is said from when to when, in seconds from the first sample."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Speech:
    """Mono sound ``[samples]`` at 16 kHz in [-1, 1], and what is said in it."""

    samples: FloatArray
    turns: list[Turn]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SAMPLE_RATE

    def write_wav(self, path: Path) -> None:
        """Write the sound as 16-bit WAV."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(np.clip(np.round(self.samples * 32768.0), -32768, 32767).astype("<i2").tobytes())


def spoken(repeats: int) -> Speech:
    """The demo dialogue of 12 turns, as many times as wanted.

    Raises:
        ValueError: it is not wanted at all.

    """
    if repeats < 1:
        raise ValueError(f"the dialogue is to be repeated {repeats} times; it must be once at least")
    chunks = (item for item in MediaFile(DEMO / "dialogue.flac").play(0) if isinstance(item, AudioChunk))
    dialogue = np.concatenate([chunk.samples[:, 0] for chunk in chunks])
    script = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
    silence = np.zeros(round(BETWEEN * SAMPLE_RATE), np.float32)
    pieces: list[FloatArray] = []
    turns: list[Turn] = []
    for number in range(repeats):
        at = number * (len(dialogue) + len(silence)) / SAMPLE_RATE
        turns += [Turn(at + turn["start"], at + turn["end"], turn["text"]) for turn in script]
        pieces += [dialogue, silence]
    return Speech(np.concatenate(pieces[:-1]), turns)
