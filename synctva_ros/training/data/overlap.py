"""What two splits share, though one is to judge what was learned from the other: pictures, texts, recordings, persons.

    synctva data check --data DIR

FER2013 holds many pictures several times, cut or lit a little differently, also across its splits; DailyDialog holds
whole dialogues several times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from synctva_ros.events import FloatArray, ImageArray
from synctva_ros.plural import counted
from synctva_ros.training.data.dialogues import Corpus, DialogueCorpus, as_recognised
from synctva_ros.training.data.protocol import CorpusError, CorpusReader, Split
from synctva_ros.training.data.registry import corpus_names, find_corpus

What = Literal["picture", "similar picture", "text", "recording", "person"]

#: Correlation of two pictures' pixels above which they are the same but for cut and light: of FER2013's pairs all that
#: were looked at above 0.91 are, and about half of those below 0.9.
ALIKE = 0.92
#: Pairs are looked for in thumbnails of this side by their correlation: none of FER2013's pairs that are alike is below
#: 0.958.
THUMBNAIL, CANDIDATE = 12, 0.95
_ROWS = 4096  # compared with all others at once, for the memory's sake
#: A line of so many words, or two in a row of so many together, hardly come about twice by chance.
LONG_LINE, LONG_PAIR = 8, 5


@dataclass(frozen=True)
class Finding:
    """What is shared, and the ids of both items; of a person it is the name."""

    what: What
    train: str
    held_out: str


def find_overlap(train: Split, held_out: Split) -> list[Finding]:
    """What two splits share.

    Pictures are the same if all their pixels are, and similar if they differ in cut or light; a mirrored picture is
    another one. Texts, of dialogues and of single sentences, are compared without case and punctuation; they are the
    same if the line is long or the line before or behind it is the same too: "Okay." by itself is no overlap. What
    actors speak is not compared, for they speak the same sentences on purpose. Recordings are the same if their files
    are, byte by byte. Persons are compared within a corpus.

    Args:
        train: what is learned from.
        held_out: what is judged by.

    Raises:
        CorpusError: a recording cannot be read.
    """
    return [
        *_pictures(train, held_out),
        *_texts(train, held_out),
        *_recordings(train, held_out),
        *_persons(train, held_out),
    ]


def without_overlap(train: Split, held_out: Split, say: Callable[[str], None], *, persons: bool = False) -> Split:
    """The training split without what the held-out one holds too; of dialogues, whole ones are left out.

    Args:
        train: what is learned from.
        held_out: what is judged by; it stays as it is.
        say: gets a sentence for each kind of thing that is shared, with how many items are left out for it.
        persons: leave out those who are in both splits; otherwise nothing is said of them.

    Raises:
        CorpusError: a recording cannot be read.
        ValueError: nothing would be left.
    """
    shared: dict[What, set[str]] = {}
    for finding in find_overlap(train, held_out):
        shared.setdefault(finding.what, set()).add(finding.train)
    kept = train.items
    for what, names in shared.items():
        if what == "person" and not persons:
            continue
        sentence = f"{_named(held_out)} holds {counted(len(names), what)} of {_named(train)} too"
        gone = [item for item in train.items if (item.person if what == "person" else item.id) in names]
        ids, dialogues = {item.id for item in gone}, {item.dialogue for item in gone} - {""}
        before = len(kept)
        kept = tuple(item for item in kept if item.id not in ids and item.dialogue not in dialogues)
        whole = f" in {counted(len(dialogues), 'dialogue')}" if dialogues else ""
        say(f"{sentence}; left out for that: {counted(before - len(kept), 'item')}{whole} of {len(train)}")
    if not kept:
        raise ValueError(f"{_named(held_out)} holds all of {_named(train)}: nothing is left to train on")
    return replace(train, items=kept)


def dialogues_without_overlap(
    train: Corpus, held_out: Corpus, say: Callable[[str], None], *, persons: bool = False
) -> Corpus:
    """The same for dialogues in the layout of ``read_corpus``.

    Raises:
        ValueError: nothing would be left.
    """
    left = without_overlap(_as_split(train), _as_split(held_out), say, persons=persons)
    kept = {item.dialogue for item in left.items}
    return replace(train, dialogues=tuple(dialogue for dialogue in train.dialogues if dialogue.id in kept))


def check(root: Path, names: Iterable[str] = ()) -> Iterator[str]:
    """What there is of each corpus, and what its splits, and corpora from the same source, share.

    Args:
        root: folder of the data.
        names: of corpora, which must be there; all that are there if empty.

    Yields:
        Lines for people, as they are found out.

    Raises:
        ValueError: there is no such corpus, or none at all.
        CorpusError: a split cannot be read.
    """
    names = tuple(names)
    corpora = [find_corpus(name) for name in names or corpus_names()]
    present = {corpus.name: _present(root, corpus) for corpus in corpora}
    if missing := [name for name, splits in present.items() if not splits]:
        if names or len(missing) == len(present):
            raise ValueError(f"{root}: {', '.join(missing)} cannot be found in this folder, see docs/corpora.md")
        yield f"not in {root}: {', '.join(missing)}"
    for corpus in corpora:
        splits = [corpus.read(root, name) for name in present[corpus.name]]
        if splits:
            yield from _described(corpus, splits)
        for train, held_out in combinations(splits, 2):
            yield from _shared(train, held_out)
        for name in corpus.akin:
            other = find_corpus(name)
            for first, second in ((corpus, other), (other, corpus)):
                if splits and "train" in _present(root, first) and "valid" in _present(root, second):
                    yield from _shared(first.read(root, "train"), second.read(root, "valid"))


def _as_split(corpus: Corpus) -> Split:
    reader = find_corpus(corpus.name)
    assert isinstance(reader, DialogueCorpus)  # read_corpus reads no other
    return Split(reader, corpus.split, tuple(reader.utterances(corpus)))


def _present(root: Path, corpus: CorpusReader) -> list[str]:
    return [split for split in corpus.splits if corpus.file(root, split).is_file()]


def _named(split: Split) -> str:
    return f"{split.corpus.name} {split.name}"


def _described(corpus: CorpusReader, splits: list[Split]) -> Iterator[str]:
    yield f"{corpus.name}: {corpus.kind}, {corpus.language}; {corpus.licence}"
    if corpus.relabels:
        yield f"  judges the items of {corpus.relabels} anew: it has the same ones on purpose"
    yield f"  {f'{len(corpus.classes)} classes: ' + ' '.join(corpus.classes) if corpus.classes else 'no classes'}"
    for split in splits:
        without = sum(item.target is None for item in split.items) if corpus.classes else 0
        dialogues = len({item.dialogue for item in split.items} - {""})
        parts = [
            counted(len(split), "item"),
            *([counted(dialogues, "dialogue")] if dialogues else []),
            *([counted(len(split.persons), "person")] if split.persons else []),
            *([f"{without} without a label"] if without else []),
        ]
        yield f"  {split.name}: {', '.join(parts)}"
        if copies := _copies(split):
            verb = "is" if len(copies) == 1 else "are"
            yield f"    {counted(len(copies), 'item')} of it {verb} the same as an earlier one, byte by byte"
    if len(splits) == 1:
        yield "  it has one split: hold out people"


def _shared(train: Split, held_out: Split) -> Iterator[str]:
    found = find_overlap(train, held_out)
    yield f"  {_named(train)} and {_named(held_out)} share{'' if found else ' nothing'}"
    kinds: dict[str, list[Finding]] = {what: [each for each in found if each.what == what] for what in get_args(What)}
    if len({each.what for each in found} - {"person"}) > 1:
        kinds["of items, altogether"] = [each for each in found if each.what != "person"]
    for what, findings in kinds.items():
        if findings:
            ours, theirs = (len({getattr(each, side) for each in findings}) for side in ("train", "held_out"))
            totals = [len(split.persons if what == "person" else split) for split in (train, held_out)]
            yield f"    {what}: {ours} of {totals[0]}, {theirs} of {totals[1]}"


def _copies(split: Split) -> list[str]:
    """The ids of items whose recording or picture is that of an earlier one."""
    seen: set[bytes] = set()
    copies = []
    for item in split.items:
        content = item.image.tobytes() if item.image is not None else _digest(item.path)
        if content in seen:
            copies.append(item.id)
        elif content:
            seen.add(content)
    return copies


def _digest(path: Path | None) -> bytes:
    """Of a recording; empty if there is none.

    Raises:
        CorpusError: it cannot be read.
    """
    if path is None:
        return b""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        remedy = "fetch it, or take it out of the table"
        raise CorpusError(path, None, f"the recording cannot be read ({error.strerror})", remedy) from error


def _pictures(train: Split, held_out: Split) -> Iterator[Finding]:
    if any(split.items[0].image is None for split in (train, held_out)):
        return
    by_pixels: dict[bytes, list[str]] = {}
    images, others = train.images(), held_out.images()
    for item, image in zip(train.items, images, strict=True):
        by_pixels.setdefault(image.tobytes(), []).append(item.id)
    for item, image in zip(held_out.items, others, strict=True):
        yield from (Finding("picture", one, item.id) for one in by_pixels.get(image.tobytes(), ()))
    thumbnails, other_thumbnails = _unit(_thumbnails(images)), _unit(_thumbnails(others))
    for first in range(0, len(images), _ROWS):
        rows, columns = np.nonzero(thumbnails[first : first + _ROWS] @ other_thumbnails.T > CANDIDATE)
        rows += first
        alike = (_unit(images[rows]) * _unit(others[columns])).sum(1) > ALIKE
        different = (images[rows] != others[columns]).any((1, 2))
        for row, column in zip(rows[alike & different], columns[alike & different], strict=True):
            yield Finding("similar picture", train.items[row].id, held_out.items[column].id)


def _thumbnails(images: ImageArray) -> FloatArray:
    side = images.shape[1] // THUMBNAIL
    means: FloatArray = images.reshape(-1, THUMBNAIL, side, THUMBNAIL, side).mean((2, 4), dtype=np.float32)
    return means


def _unit(images: FloatArray | ImageArray) -> FloatArray:
    """Rows ``[n, pixels]`` whose products are the correlations of the pictures; one without contrast has none."""
    rows = images.reshape(len(images), images.shape[1] * images.shape[2]).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3)
    return rows


def _texts(train: Split, held_out: Split) -> Iterator[Finding]:
    if train.corpus.scripted or held_out.corpus.scripted:
        return
    ours: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for lines, ids in _telling(train):
        ours.setdefault(lines, []).append(ids)
    found: dict[tuple[str, str], None] = {}
    for lines, ids in _telling(held_out):
        for known in ours.get(lines, ()):
            found |= dict.fromkeys(zip(known, ids, strict=True))
    yield from (Finding("text", one, other) for one, other in found)


def _telling(split: Split) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What does not come about by chance, with the ids: a line, or two that follow each other in a dialogue."""
    said = [(as_recognised(item.text), item) for item in split.items]
    for text, item in said:
        if len(text.split()) >= LONG_LINE:
            yield (text,), (item.id,)
    for (text, item), (after, following) in pairwise(said):
        if item.dialogue and item.dialogue == following.dialogue and len(f"{text} {after}".split()) >= LONG_PAIR:
            yield (text, after), (item.id, following.id)


def _recordings(train: Split, held_out: Split) -> Iterator[Finding]:
    if not any(item.path for item in train.items) or not any(item.path for item in held_out.items):
        return
    ours: dict[bytes, list[str]] = {}
    for item in train.items:
        ours.setdefault(_digest(item.path), []).append(item.id)
    ours.pop(b"", None)
    for item in held_out.items:
        yield from (Finding("recording", one, item.id) for one in ours.get(_digest(item.path), ()))


def _persons(train: Split, held_out: Split) -> Iterator[Finding]:
    if train.corpus.name == held_out.corpus.name:
        yield from (Finding("person", name, name) for name in train.persons if name in held_out.persons)
