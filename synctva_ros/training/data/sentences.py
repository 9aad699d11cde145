"""Corpora of sentences by themselves: GoEmotions and EmoBank, in the folder ``text_emotion`` of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.training.data.protocol import CorpusReader, Item, Kind
from synctva_ros.training.data.tables import entry, read_json_lines, read_table

#: Which of GoEmotions' classes are one of ours: the grouping that its authors made for Ekman's six (arXiv 2005.00547).
GROUPS = {
    "neutral": ("neutral",),
    "joy": (
        *("joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief", "pride"),
        *("admiration", "desire", "caring"),
    ),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "anger": ("anger", "annoyance", "disapproval"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
    "fear": ("fear", "nervousness"),
    "disgust": ("disgust",),
}
_FOLDERS = {"valid": "dev"}
_VALUES = ("valence", "arousal", "dominance")


@dataclass(frozen=True, kw_only=True)
class GoEmotions(CorpusReader):
    """Comments with one or more labels: each has the same share of the target. The ``id`` is the number of the line."""

    kind: Kind = "sentence"

    def file(self, root: Path, split: str) -> Path:
        """Lines of JSON with ``text`` and ``emotions``."""
        return root / "text_emotion" / f"{self.name}_{_FOLDERS.get(split, split)}.jsonl"

    def items(self, root: Path, split: str) -> list[Item]:
        """Read all comments."""
        ours = {theirs: name for name, group in GROUPS.items() for theirs in group}

        def parse(record: Any) -> tuple[str, FloatArray]:
            text = entry(record, "text", str, "a comment")
            labels = entry(record, "emotions", list, "a comment")
            if strange := [label for label in labels if label not in ours] or ([] if labels else ["none"]):
                raise ValueError(f"emotion {strange[0]!r} is none of {', '.join(sorted(ours))}")
            return text, np.mean([self.one_hot(ours[label]) for label in labels], axis=0, dtype=np.float32)

        lines = read_json_lines(self.file(root, split), parse)
        return [Item(str(number), target, text=text) for number, (text, target) in enumerate(lines, start=1)]


@dataclass(frozen=True, kw_only=True)
class EmoBank(CorpusReader):
    """Sentences with valence, arousal and dominance from 1 to 5; ``values`` are (x - 3) / 2, from -1 to 1."""

    kind: Kind = "sentence"

    def file(self, root: Path, split: str) -> Path:
        """The table with the columns id, valence, arousal, dominance, text."""
        return root / "text_emotion" / f"{self.name}_{_FOLDERS.get(split, split)}.csv"

    def items(self, root: Path, split: str) -> list[Item]:
        """Read all sentences; they have no class."""

        def parse(row: Mapping[str, str]) -> Item:
            values = np.array([_scaled(name, row[name]) for name in _VALUES], np.float32)
            return Item(row["id"], None, text=row["text"], values=values)

        return read_table(self.file(root, split), ("id", *_VALUES, "text"), parse)


def _scaled(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 1 <= value <= 5:
        raise ValueError(f"{name} is {text!r}, not a number from 1 to 5")
    return (value - 3) / 2


GOEMOTIONS = GoEmotions(name="goemotions", classes=EMOTIONS, language="en", licence="CC BY 4.0")
EMOBANK = EmoBank(name="emobank", classes=(), language="en", licence="CC BY-SA 4.0: weights are shared alike")
