"""Corpora of speech: a folder of recordings and, beside them, the table ``labels.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from synctva_ros.events import EMOTIONS
from synctva_ros.training.data.protocol import CorpusReader, Item, Kind
from synctva_ros.training.data.tables import read_table


@dataclass(frozen=True, kw_only=True)
class VoiceCorpus(CorpusReader):
    """Recordings in ``speech_emotion/NAME``; all are for training: hold out people.

    Attributes:
        text: the column of ``labels.csv`` that holds the words, where it is there.
    """

    kind: Kind = "voice"
    splits: tuple[str, ...] = ("train",)
    scripted: bool = True
    text: str = ""

    def file(self, root: Path, split: str) -> Path:
        """The table; of a split other than "train" it would be ``labels_SPLIT.csv``."""
        return root / "speech_emotion" / self.name / ("labels.csv" if split == "train" else f"labels_{split}.csv")

    def items(self, root: Path, split: str) -> list[Item]:
        """Read the table with the columns file, emotion and actor; the recordings are not looked at."""
        table = self.file(root, split)

        def parse(row: Mapping[str, str]) -> Item:
            return Item(
                id=row["file"],
                target=self.one_hot(row["emotion"]),
                person=row["actor"],
                text=row.get(self.text, ""),
                path=table.parent / row["file"],
            )

        return read_table(table, ("file", "emotion", "actor"), parse)


RAVDESS = VoiceCorpus(
    name="ravdess",
    classes=EMOTIONS,
    language="en",
    licence="CC-BY-NC-SA-4.0: weights trained on it are not for commercial use",
    text="transcript",
)
EMOVO = VoiceCorpus(
    name="emovo",
    classes=EMOTIONS,
    language="it",
    licence="LicenseRef-EMOVO: for research (Costantini et al. 2014): so are weights trained on it",
)
ASED = VoiceCorpus(
    name="ased",
    classes=("neutral", "joy", "sadness", "anger", "fear"),
    language="am",
    licence="LicenseRef-ASED: for research (Retta et al. 2023): so are weights trained on it",
)
NEMO = VoiceCorpus(
    name="nemo",
    classes=("neutral", "joy", "sadness", "anger", "surprise", "fear"),
    language="pl",
    licence="CC-BY-NC-SA-4.0: weights trained on it are not for commercial use",
    text="text",
)
