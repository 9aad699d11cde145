"""FER2013: grey faces in a ZIP archive for each split, with its own labels, and with the votes of FER+."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synctva_ros.evaluation.classes import class_index
from synctva_ros.events import EMOTIONS, FloatArray, ImageArray
from synctva_ros.training.data.protocol import CorpusError, CorpusReader, Item, Kind
from synctva_ros.training.data.tables import read_table

#: Of the pictures [pixels].
SIDE = 48
#: The columns of FER+'s votes that are an emotion of ours.
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
#: Those that are none.
OTHERS = ("contempt", "unknown", "NF")
_TERMS = "LicenseRef-FER2013: for research, weights too; pictures from the web, terms unclear: pass none on"
_FOLDERS = {"valid": "val"}


@dataclass(frozen=True, kw_only=True)
class LabelledFaces(CorpusReader):
    """``faces/NAME_SPLIT.zip`` ("val" for "valid") with ``…/class/name.jpg`` or png, of 48 by 48 pixels or any size."""

    kind: Kind = "face"

    def file(self, root: Path, split: str) -> Path:
        """The archive."""
        return root / "faces" / f"{self.name}_{_FOLDERS.get(split, split)}.zip"

    def items(self, root: Path, split: str) -> list[Item]:
        """Read all pictures; the ``id`` is the name in the archive, the label that of its folder."""
        archive = self.file(root, split)
        found = []
        for name, image in read_images(archive).items():
            try:
                target = self.one_hot(name.split("/")[-2])
            except ValueError as error:
                raise CorpusError(archive, None, f"{name}: {error}", "take it out") from error
            found.append(Item(name, target, image=image))
        return found


@dataclass(frozen=True, kw_only=True)
class VotedFaces(CorpusReader):
    """The same pictures with the votes of ten people in ``faces/NAME_SPLIT.csv`` (arXiv 1608.01041).

    The target is the share of each emotion of ours among the votes for any of them. Left out are pictures of which
    unknown, not a face or contempt, which is no class of ours, has more votes than each of our emotions; of the
    others the votes for these three are dropped.

    Attributes:
        pictures: the corpus whose pictures they are.
    """

    kind: Kind = "face"
    pictures: CorpusReader

    def file(self, root: Path, split: str) -> Path:
        """The table of votes."""
        return root / "faces" / f"{self.name}_{_FOLDERS.get(split, split)}.csv"

    def items(self, root: Path, split: str) -> list[Item]:
        """Read the votes, and the pictures that they are about."""
        table, archive = self.file(root, split), self.pictures.file(root, split)

        def parse(row: Mapping[str, str]) -> tuple[str, FloatArray | None]:
            votes = np.zeros(len(EMOTIONS), np.float32)
            for column in VOTED:
                votes[class_index(column)] = _count(row, column)
            if votes.max() < max(1, *(_count(row, column) for column in OTHERS)):
                return row["file"], None
            return row["file"], votes / votes.sum()

        targets = dict(read_table(table, ("file", *VOTED, *OTHERS), parse))
        images = read_images(archive)
        if missing := targets.keys() - images.keys():
            reason = f"{len(missing)} of its {len(targets)} pictures, such as {min(missing)}, are not in {archive}"
            raise CorpusError(table, None, reason, "see that both are of the same split")
        return [Item(name, target, image=images[name]) for name, target in targets.items() if target is not None]


def _count(row: Mapping[str, str], column: str) -> int:
    if not row[column].isdecimal():
        raise ValueError(f"{column} is {row[column]!r}, not a number of votes")
    return int(row[column])


def read_images(archive: Path) -> dict[str, ImageArray]:
    """The grey pictures ``[48, 48]`` of a ZIP archive by their names in it, in order of the names.

    Raises:
        CorpusError: it is no such archive, or there is no picture in it or a damaged one.
    """
    import cv2

    again = "fetch it again"
    if not archive.is_file():
        raise CorpusError(archive, None, "there is no such file", "check the folder and the split")
    try:
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.endswith((".jpg", ".png")) and "/" in name)
            contents = [file.read(name) for name in names]
    except zipfile.BadZipFile as error:
        raise CorpusError(archive, None, f"it is no whole ZIP archive ({error})", again) from error
    images: dict[str, ImageArray] = {}
    for name, content in zip(names, contents, strict=True):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
        if image is None:
            raise CorpusError(archive, None, f"{name} is no picture", again)
        images[name] = np.asarray(image if image.shape == (SIDE, SIDE) else cv2.resize(image, (SIDE, SIDE)), np.uint8)
    if not images:
        raise CorpusError(archive, None, "it holds no picture class/name.jpg", "give FER2013 as such an archive")
    return images


FER2013 = LabelledFaces(name="fer2013", classes=EMOTIONS, language="und", licence=_TERMS)
FERPLUS = VotedFaces(
    name="ferplus",
    classes=EMOTIONS,
    language="und",
    licence=f"{_TERMS}; votes: MIT",
    relabels=FER2013.name,
    pictures=FER2013,
)
