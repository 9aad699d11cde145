"""What all corpora have in common: a corpus has splits, a split has items, an item has a target.

A reader is one small class in one file, or only an instance of a class that is there already; ``docs/corpora.md`` shows
how to add one. The corpora that are known by name stand in :mod:`.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synctva_ros.evaluation.classes import NAMES
from synctva_ros.events import EMOTIONS, FloatArray, ImageArray
from synctva_ros.sources.files import FileError

IntArray = NDArray[np.int64]
#: What is looked at: a turn of a dialogue, a recording, a picture, or words by themselves.
Kind = Literal["dialogue", "voice", "face", "sentence"]


class CorpusError(FileError):
    """A file of a corpus cannot be used: which one, which line of it (from 1), why, and what to do."""


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that somebody judged, with what there is of it.

    Attributes:
        id: unique within the split.
        target: ``[C]``, a distribution over the corpus's classes (a hard label is all on one), or None: nobody judged.
        person: who speaks or is seen, by a name that is unique within the corpus; empty: not known.
        text: what is said or written; empty: not known.
        dialogue: to which dialogue it belongs, whose turns follow each other; empty: to none.
        path: of the recording.
        image: ``[48, 48]``, a grey face.
        values: ``[3]`` valence, arousal and dominance from -1 to 1.
    """

    id: str
    target: FloatArray | None
    person: str = ""
    text: str = ""
    dialogue: str = ""
    path: Path | None = None
    image: ImageArray | None = None
    values: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a corpus, such as "train"; its length is the number of its items."""

    corpus: CorpusReader
    name: str
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def persons(self) -> tuple[str, ...]:
        """Those who are known, sorted."""
        return tuple(sorted({item.person for item in self.items} - {""}))

    def images(self) -> ImageArray:
        """All pictures ``[n, 48, 48]``.

        Raises:
            ValueError: an item has none.
        """
        images = [item.image for item in self.items if item.image is not None]
        if not images or len(images) < len(self):
            raise ValueError(f"{self.corpus.name}: {len(self) - len(images)} of {len(self)} items have no picture")
        return np.stack(images)

    def targets(self, classes: Sequence[str] = EMOTIONS) -> tuple[FloatArray, NDArray[np.bool_]]:
        """The targets over other classes, of which this corpus has some, in any order.

        Returns:
            ``[n, C]``, rows of NaN where there is no target; and ``[C]``, of which classes the corpus speaks at all: a
            corpus without surprise says nothing about surprise.

        Raises:
            ValueError: the corpus has a class that is not among them.
        """
        if strange := [name for name in self.corpus.classes if name not in classes]:
            raise ValueError(f"{self.corpus.name} has the classes {', '.join(strange)}, which are not asked for here")
        columns = [classes.index(name) for name in self.corpus.classes]
        found = np.zeros((len(self), len(classes)), np.float32)
        for row, item in zip(found, self.items, strict=True):
            if item.target is None:
                row[:] = np.nan
            else:
                row[columns] = item.target
        known = np.zeros(len(classes), bool)
        known[columns] = True
        return found, known


@dataclass(frozen=True, kw_only=True)
class CorpusReader(ABC):
    """What a corpus is, and how it is read.

    Attributes:
        name: by which it is asked for.
        kind: see :data:`Kind`.
        classes: in the order of the targets; those of the project's seven have the project's names. A corpus that is
            judged by other means has none.
        language: as BCP 47 writes it, such as "pt-BR"; "und" where nobody speaks.
        licence: its SPDX name, a colon, and what trained weights inherit of it.
        splits: that are handed out for training.
        relabels: name of the corpus whose items it judges anew; empty: they are its own.
        scripted: whether people speak the same sentences on purpose, so that the same text says nothing.
        akin: names of corpora that were taken from the same source, so that they may share items.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    language: str
    licence: str
    splits: tuple[str, ...] = ("train", "valid")
    relabels: str = ""
    scripted: bool = False
    akin: tuple[str, ...] = ()

    @abstractmethod
    def file(self, root: Path, split: str) -> Path:
        """The file that is there if the split is."""

    @abstractmethod
    def items(self, root: Path, split: str) -> list[Item]:
        """Read a split.

        Args:
            root: folder of the data, the same for all corpora.
            split: such as "train"; one that is not among ``splits`` may be there nevertheless.

        Raises:
            CorpusError: there is no such file, or something in it is not as it should be.
        """

    def one_hot(self, name: str) -> FloatArray:
        """A hard label, by our or the corpus's own name of it, as a target ``[C]``.

        Raises:
            ValueError: this corpus has no such class.
        """
        name = name if name in self.classes else NAMES.get(name, name)
        if name not in self.classes:
            raise ValueError(f"class {name!r} is none of {', '.join(self.classes)}")
        target = np.zeros(len(self.classes), np.float32)
        target[self.classes.index(name)] = 1
        return target

    def read(self, root: Path, split: str) -> Split:
        """Read a split.

        Raises:
            CorpusError: there is no such file, something in it is not as it should be, it holds nothing, or two items
                have the same ``id``.
        """
        items = self.items(root, split)
        seen: set[str] = set()
        for item in items:
            if item.id in seen:
                raise CorpusError(self.file(root, split), None, f"{item.id} is there twice", "take one of them out")
            seen.add(item.id)
        if not items:
            raise CorpusError(self.file(root, split), None, "it holds nothing", "fetch it again")
        return Split(self, split, tuple(items))
