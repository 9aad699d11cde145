"""What the tests of training share: a text encoder that only counts words, and small corpora that it can classify."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from synctva_ros.events import FloatArray
from synctva_ros.training.data.dialogues import CORPORA, VECTORS, Corpus, Dialogue, write_corpus

WriteCorpus = Callable[..., Corpus]


class Words:
    """Stands in for the text encoder: a vector is the mean of its words' vectors."""

    def __init__(self, name: str = "words-1", seed: int = 0) -> None:
        self.name = name
        self.layers = (0, 1, 2)
        self.width = 12
        self.seed = seed
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.seen += texts
        vectors = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            words = text.split() or [""]
            for word in words:
                vectors[row] += np.random.default_rng([self.seed, zlib.crc32(word.encode())]).normal(size=self.width)
            vectors[row] /= len(words)
        return vectors


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    """The encoder that every recipe gets; ``seen`` holds what was encoded."""
    from synctva_ros.training.data import text_vectors

    encoder = Words()
    monkeypatch.setattr(text_vectors, "text_encoder", lambda recipe: encoder)
    return encoder


@pytest.fixture
def write_split() -> WriteCorpus:
    """Writes a split whose words, and whose vectors where there are any, give the class away."""

    def write(
        folder: Path,
        split: str,
        lengths: Sequence[int],
        *,
        name: str = "meld",
        widths: dict[str, int] | None = None,
        missing: dict[str, Sequence[int]] | None = None,
        encoder: str = "e-1",
        seed: int = 0,
    ) -> Corpus:
        """``missing``: for each modality the rows (of all the split) that have none."""
        widths, missing, classes = widths or {}, missing or {}, len(CORPORA[name])
        rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
        dialogues, first = [], 0
        for number, length in enumerate(lengths):
            labels = rng.integers(classes, size=length)
            vectors: dict[str, FloatArray | None] = dict.fromkeys(VECTORS)
            for modality, width in widths.items():
                rows = (np.eye(max(classes, width))[labels, :width] + 0.1 * rng.normal(size=(length, width))) * 50
                rows[[row - first for row in missing.get(modality, ()) if first <= row < first + length]] = np.nan
                vectors[modality] = rows.astype(np.float32)
            first += length
            dialogues.append(
                Dialogue(
                    id=f"d{number}",
                    speakers=tuple("AB"[i % 2] for i in range(length)),
                    # Of the split too: what two splits share is left out.
                    texts=tuple(f"{CORPORA[name][n]} said {split} {number} {turn}" for turn, n in enumerate(labels)),
                    labels=labels,
                    audio=vectors["audio"],
                    vision=vectors["vision"],
                    times=None,
                )
            )
        corpus = Corpus(name, split, CORPORA[name], tuple(dialogues), dict.fromkeys(widths, encoder), dict(widths))
        write_corpus(corpus, folder)
        return corpus

    return write
