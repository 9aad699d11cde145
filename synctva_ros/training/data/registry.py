"""Corpora by name: ours, those that other packages bring as entry points, and any that can be imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from synctva_ros.training.data.protocol import CorpusReader, Split

#: Group of the entry points in which other packages name their corpora.
GROUP = "synctva_ros.corpora"
_OURS = {
    "meld": "dialogues:MELD",
    "emotionlines": "dialogues:EMOTIONLINES",
    "iemocap": "dialogues:IEMOCAP",
    "emorynlp": "dialogues:EMORYNLP",
    "dailydialog": "dialogues:DAILYDIALOG",
    "ravdess": "voices:RAVDESS",
    "emovo": "voices:EMOVO",
    "ased": "voices:ASED",
    "nemo": "voices:NEMO",
    "fer2013": "faces:FER2013",
    "ferplus": "faces:FERPLUS",
    "goemotions": "sentences:GOEMOTIONS",
    "emobank": "sentences:EMOBANK",
}


def corpus_names() -> tuple[str, ...]:
    """All corpora that are known by name."""
    return tuple(_points())


def find_corpus(name: str) -> CorpusReader:
    """Find a corpus.

    Args:
        name: of ours, of one that another package brings, or ``module:NAME`` for any that can be imported.

    Raises:
        ValueError: there is no such corpus, or it cannot be imported; the message says which there are.
    """
    point = EntryPoint(name, name, GROUP) if ":" in name else _points().get(name)
    known = f"corpora are: {', '.join(corpus_names())}"
    if point is None:
        raise ValueError(f"there is no corpus {name!r}; {known}")
    try:
        found = point.load()
    except Exception as error:  # whatever another package's code may raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the corpus {name!r} cannot be imported ({reason}); {known}") from error
    if not isinstance(found, CorpusReader):
        raise ValueError(f"the corpus {name!r} is {found!r}, no CorpusReader, see docs/corpora.md; {known}")
    return found


def licence_of(corpora: Sequence[str]) -> str:
    """What weights inherit that are trained on these corpora: SPDX names that all hold, a colon, and why.

    Raises:
        ValueError: there is no such corpus.
    """
    terms = [find_corpus(name).licence.partition(": ") for name in corpora]
    return f"{' AND '.join(sorted({name for name, _, _ in terms}))}: {'; '.join(sorted({why for *_, why in terms}))}"


def read_split(root: Path, name: str, split: str) -> Split:
    """Read a split of a corpus.

    Args:
        root: folder of the data.
        name: see ``find_corpus``.
        split: such as "train".

    Raises:
        ValueError: there is no such corpus.
        CorpusError: the split cannot be read (a ValueError).
    """
    return find_corpus(name).read(root, split)


def _points() -> dict[str, EntryPoint]:
    """Ours win over those of other packages with the same name."""
    theirs = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    ours = [EntryPoint(name, f"{__package__}.{value}", GROUP) for name, value in _OURS.items()]
    return {point.name: point for point in (*ours, *reversed(theirs), *ours)}
