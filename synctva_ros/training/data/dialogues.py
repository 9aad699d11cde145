"""Corpora of dialogues, with speakers, words, labels and, where there are any, vectors and times.

A split of a corpus is a file of JSON lines, ``NAME_SPLIT.jsonl``, and beside it an array for each further modality,
``NAME_SPLIT_audio.npz`` and ``NAME_SPLIT_vision.npz``. ``docs/corpora.md`` describes them.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.sources.files import LineWriter, writing
from synctva_ros.training.data.protocol import CorpusError, CorpusReader, IntArray, Item, Kind
from synctva_ros.training.data.registry import find_corpus
from synctva_ros.training.data.tables import WrongLineError, entry, read_json_lines

#: What may lie beside the words.
VECTORS = ("audio", "vision")
#: The order in which a file of votes counts them.
VOTED = ("neutral", "joy", "sadness", "fear", "anger", "surprise", "disgust")
#: Times are kept as float32.
MAX_TIME = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Dialogue:
    """One dialogue of ``n`` utterances, in the order in which they were spoken.

    Attributes:
        id: unique within the split.
        speakers: who spoke each utterance, ``n`` names.
        texts: the words, ``n`` of them; may be empty.
        labels: ``[n]``, index into ``Corpus.labels``.
        audio: ``[n, width]``, or None if the corpus has none; a row that is all NaN: this utterance has none.
        vision: the same for the face.
        times: ``[n, 2]`` start and end of speech [s], or None if the corpus has none.
        votes: ``[n, C]`` how many people chose each class, or None if the corpus has none; a row that is all NaN:
            nobody was asked.
    """

    id: str
    speakers: tuple[str, ...]
    texts: tuple[str, ...]
    labels: IntArray
    audio: FloatArray | None
    vision: FloatArray | None
    times: FloatArray | None
    votes: FloatArray | None = None


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus; its length is the number of utterances.

    Attributes:
        name: one of ``CORPORA``.
        split: such as "train" or "valid".
        labels: the classes, in the order of a network's outputs.
        dialogues: at least one.
        encoders: what made the vectors, by "audio" and "vision"; empty where the file does not say.
        widths: how long the vectors are. Neither this nor ``encoders`` has an entry for vectors that are not there.
    """

    name: str
    split: str
    labels: tuple[str, ...]
    dialogues: tuple[Dialogue, ...]
    encoders: dict[str, str]
    widths: dict[str, int]

    def __len__(self) -> int:
        return sum(len(dialogue.texts) for dialogue in self.dialogues)


def _folder(root: Path) -> Path:
    """Where the dialogues lie in the folder of the data; it may also be given itself."""
    return root / "erc" if (root / "erc").is_dir() else root


@dataclass(frozen=True, kw_only=True)
class DialogueCorpus(CorpusReader):
    """Dialogues in the layout of ``docs/corpora.md``, in the folder ``erc`` of the data.

    Attributes:
        person: a person's name, of a dialogue's id and a speaker.
    """

    kind: Kind = "dialogue"
    person: Callable[[str, str], str] = lambda dialogue, speaker: speaker

    def file(self, root: Path, split: str) -> Path:
        """The words."""
        return _folder(root) / f"{self.name}_{split}.jsonl"

    def items(self, root: Path, split: str) -> list[Item]:
        """All utterances, with the corpus's label; their vectors are only in what ``read_corpus`` returns."""
        return self.utterances(read_corpus(_folder(root), self.name, split))

    def utterances(self, corpus: Corpus) -> list[Item]:
        """All utterances of a split that has been read."""
        eye = np.eye(len(self.classes), dtype=np.float32)
        return [
            Item(f"{dialogue.id}:{turn}", eye[label], self.person(dialogue.id, speaker), text, dialogue.id)
            for dialogue in corpus.dialogues
            for turn, (speaker, text, label) in enumerate(
                zip(dialogue.speakers, dialogue.texts, dialogue.labels, strict=True)
            )
        ]


@dataclass(frozen=True, kw_only=True)
class VotedDialogues(CorpusReader):
    """The same utterances with what several people made of their words as targets; None where nobody was asked.

    Attributes:
        dialogues: the corpus whose utterances they are.
    """

    kind: Kind = "dialogue"
    dialogues: DialogueCorpus

    def file(self, root: Path, split: str) -> Path:
        """The votes."""
        return _votes_file(_folder(root), self.dialogues.name, split)

    def items(self, root: Path, split: str) -> list[Item]:
        """All utterances of the corpus, with the votes as targets."""
        if not self.file(root, split).is_file():
            raise CorpusError(self.file(root, split), None, "there is no such file", "check the folder and the split")
        corpus = read_corpus(_folder(root), self.dialogues.name, split)
        rows: list[FloatArray | None] = []
        for dialogue in corpus.dialogues:
            if dialogue.votes is None:
                rows += [None] * len(dialogue.texts)
            else:
                rows += [None if np.isnan(row).any() else row / row.sum() for row in dialogue.votes]
        items = self.dialogues.utterances(corpus)
        return [replace(item, target=target) for item, target in zip(items, rows, strict=True)]


_SERIES = "from the subtitles of a television series"
MELD = DialogueCorpus(
    name="meld",
    classes=EMOTIONS,
    language="en",
    licence=f"GPL-3 (declare-lab/MELD), {_SERIES}",
)
DAILYDIALOG = DialogueCorpus(
    name="dailydialog",
    classes=EMOTIONS,
    language="en",
    licence="CC-BY-NC-SA-4.0: weights trained on it are not for commercial use",
    person=lambda dialogue, speaker: "",  # 0 and 1 are others in each dialogue
)
IEMOCAP = DialogueCorpus(
    name="iemocap",
    classes=("hap", "sad", "neu", "ang", "exc", "fru"),
    language="en",
    licence="only with its owners' release form: measure with it, ship no weights trained on it",
    scripted=True,
    person=lambda dialogue, speaker: dialogue[:5] + speaker,  # a session has one woman and one man
)
EMORYNLP = DialogueCorpus(
    name="emorynlp",
    classes=("joyful", "neutral", "powerful", "mad", "sad", "scared", "peaceful"),
    language="en",
    licence=f"Apache-2.0, {_SERIES}",
    akin=(MELD.name,),
    person=lambda dialogue, speaker: re.sub(r"[\[\]'\"]", "", speaker),  # "['Ross Geller']"
)
EMOTIONLINES = VotedDialogues(
    name="emotionlines",
    classes=EMOTIONS,
    language="en",
    licence="votes for research (Chen et al. 2018); words as meld",
    relabels=MELD.name,
    dialogues=MELD,
)
#: Name of each corpus in this layout and its classes, in the order of a network's outputs.
CORPORA: dict[str, tuple[str, ...]] = {corpus.name: corpus.classes for corpus in (MELD, DAILYDIALOG, IEMOCAP, EMORYNLP)}


def as_written(text: str) -> str:
    """MELD's text with its stray Windows-1252 characters put right."""
    return re.sub("[\x80-\x9f]", lambda c: c[0].encode("latin-1").decode("cp1252", "ignore"), text).strip()


def as_recognised(text: str) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s']", " ", text.lower().replace("\u2019", "'"))).strip()


def as_heard(speakers: Sequence[str], share: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Who speaks each utterance, as ears find it that are right in this share of them.

    Half of the others are nobody's (""); the rest are somebody else's, one of the dialogue's or, as often as one of
    them, a person who is not there.
    """
    people = list(dict.fromkeys(speakers))
    found = []
    for speaker in speakers:
        others = [person for person in people if person != speaker] + ["a stranger"]
        mistaken = "" if rng.random() < 0.5 else str(rng.choice(others))
        found.append(speaker if rng.random() < share else mistaken)
    return tuple(found)


def read_corpus(folder: Path, name: str, split: str) -> Corpus:
    """Read one split of a corpus; vectors and votes whose file is missing are None.

    Raises:
        CorpusError: No such corpus or file, or something in it is not as ``docs/corpora.md`` says.
    """
    path = folder / f"{name}_{split}.jsonl"
    classes = _classes(path, name)
    if not path.is_file():
        raise CorpusError(path, None, "there is no such file", "check the folder, the corpus and the split")
    vectors: dict[str, FloatArray] = {}
    encoders: dict[str, str] = {}
    for modality in VECTORS:
        file = _vector_file(folder, name, split, modality)
        if file.is_file():
            try:
                vectors[modality], encoders[modality] = _read_vectors(file, modality)
            except WrongLineError as wrong:
                raise CorpusError(file, None, wrong.reason, wrong.remedy) from wrong
    if len({len(rows) for rows in vectors.values()}) > 1:
        audio, vision = (len(vectors[modality]) for modality in VECTORS)
        file = _vector_file(folder, name, split, "vision")
        raise CorpusError(file, None, f"it has {vision} rows, but audio has {audio}", "extract both from the same file")
    votes = _read_votes(_votes_file(folder, name, split), classes)
    found: dict[str, int] = {}

    def parse(record: Any) -> Dialogue:
        dialogue = _dialogue(record, classes, vectors, votes)
        if dialogue.id in found:
            first = found[dialogue.id]
            raise WrongLineError(
                f"dialogue {dialogue.id!r} is on line {first} already", "give each dialogue its own id"
            )
        found[dialogue.id] = len(found) + 1
        return dialogue

    dialogues = read_json_lines(path, parse)
    widths = {modality: rows.shape[1] for modality, rows in vectors.items()}
    return Corpus(name, split, classes, tuple(dialogues), encoders, widths)


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write what ``read_corpus`` reads, over what is there; the words must be as ``as_written`` leaves them.

    A file of votes that is there stays if this corpus has none, for votes are about words, not about vectors.

    Raises:
        ValueError: A dialogue lacks vectors that ``corpus.widths`` announces.
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for modality in VECTORS:
        path = _vector_file(folder, corpus.name, corpus.split, modality)
        if modality not in corpus.widths:
            path.unlink(missing_ok=True)  # older vectors would be taken for those of the new dialogues
            continue
        rows = []
        for dialogue in corpus.dialogues:
            vectors: FloatArray | None = getattr(dialogue, modality)
            if vectors is None:
                raise ValueError(f"dialogue {dialogue.id!r} has no {modality}: give rows of NaN where it is missing")
            rows.append(vectors)
        # An empty name is not written: it means that the file does not say.
        encoder = {"encoder": np.array(name)} if (name := corpus.encoders.get(modality, "")) else {}
        with writing(path):
            np.savez_compressed(path, allow_pickle=False, **{modality: np.concatenate(rows)}, **encoder)
    with LineWriter(folder / f"{corpus.name}_{corpus.split}.jsonl") as file:
        first = 0
        for dialogue in corpus.dialogues:
            record: dict[str, Any] = {"dialogue": dialogue.id}
            if corpus.widths:
                record["audio_rows"] = [first, first + len(dialogue.texts)]
            first += len(dialogue.texts)
            record["utterances"] = [
                {"speaker": speaker, "text": text, "emotion": corpus.labels[label]}
                for speaker, text, label in zip(dialogue.speakers, dialogue.texts, dialogue.labels, strict=True)
            ]
            if dialogue.times is not None:
                for utterance, (start, end) in zip(record["utterances"], dialogue.times, strict=True):
                    # As float64 the time would show digits that a float32 does not have.
                    utterance |= {"start": float(str(start)), "end": float(str(end))}
            file.write(record)
    if any(dialogue.votes is not None for dialogue in corpus.dialogues):
        order = [corpus.labels.index(name) for name in VOTED]
        with LineWriter(_votes_file(folder, corpus.name, corpus.split)) as file:
            for dialogue in corpus.dialogues:
                if dialogue.votes is not None:
                    counts = [None if np.isnan(row[0]) else list(map(int, row)) for row in dialogue.votes[:, order]]
                    file.write({"dialogue": dialogue.id, "votes": counts})


def _vector_file(folder: Path, name: str, split: str, modality: str) -> Path:
    return folder / f"{name}_{split}_{modality}.npz"


def _votes_file(folder: Path, name: str, split: str) -> Path:
    return folder / f"{name}_{split}_votes.jsonl"


def _read_votes(path: Path, classes: tuple[str, ...]) -> dict[str, FloatArray]:
    """The votes ``[n, C]`` of each dialogue by its id; empty if there is no such file."""
    if not path.is_file():
        return {}
    if missing := [name for name in VOTED if name not in classes]:
        raise CorpusError(path, None, f"the corpus has no class {missing[0]}", f"votes are for {', '.join(VOTED)}")
    order = [VOTED.index(name) for name in classes]

    def parse(record: Any) -> tuple[str, FloatArray]:
        identity = entry(record, "dialogue", str, "a dialogue")
        counts = []
        for number, row in enumerate(entry(record, "votes", list, f"dialogue {identity!r}"), start=1):
            if row is None:
                row = [np.nan] * len(VOTED)
            elif not isinstance(row, list) or len(row) != len(VOTED) or any(type(n) is not int or n < 0 for n in row):
                raise WrongLineError(
                    f"vote {number} is {json.dumps(row)[:40]}, not {len(VOTED)} counts",
                    f"count {', '.join(VOTED)}, or write null",
                )
            elif not any(row):
                raise WrongLineError(f"in vote {number} nobody chose anything", "write null")
            counts.append(row)
        return identity, np.array(counts, np.float32).reshape(-1, len(VOTED))[:, order]

    return dict(read_json_lines(path, parse))


def _read_vectors(path: Path, modality: str) -> tuple[FloatArray, str]:
    """All rows ``[rows, width]`` of a file and the name of their encoder."""
    remedy = f"write it with numpy.savez and an array {modality!r}"
    try:
        with np.load(path, allow_pickle=False) as file:
            array = file[modality]
            encoder = file["encoder"] if "encoder" in file else np.array("")
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WrongLineError(f"the vectors cannot be read ({error})", remedy) from error
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f":
        raise WrongLineError(
            f"{modality!r} has shape {array.shape} and type {array.dtype}, not floats [rows, width]", remedy
        )
    if encoder.ndim != 0 or encoder.dtype.kind != "U":
        raise WrongLineError("'encoder' is not a text", "write the encoder's name into it, or leave it out")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is found below
        vectors = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(1) & ~np.isnan(vectors).all(1))
    if len(bad):
        raise WrongLineError(
            f"{len(bad)} of {len(vectors)} rows have values that are NaN or infinite, first row {bad[0]} (from 0)",
            "correct them, or fill the whole row with NaN if the utterance has no such vector",
        )
    return vectors, str(encoder)


def _dialogue(
    record: Any, labels: tuple[str, ...], vectors: Mapping[str, FloatArray], votes: Mapping[str, FloatArray]
) -> Dialogue:
    identity = entry(record, "dialogue", str, "a dialogue")
    utterances = entry(record, "utterances", list, f"dialogue {identity!r}")
    if not utterances:
        raise WrongLineError(f"dialogue {identity!r} has no utterances", "take the line out")
    speakers, texts, classes, times = [], [], [], []
    for number, utterance in enumerate(utterances, start=1):
        what = f"utterance {number} of {len(utterances)}"
        speakers.append(entry(utterance, "speaker", str, what))
        texts.append(as_written(entry(utterance, "text", str, what)))
        emotion = entry(utterance, "emotion", str, what)
        if emotion not in labels:
            raise WrongLineError(f"{what}: class {emotion!r} is unknown", f"give one of {', '.join(labels)}")
        classes.append(labels.index(emotion))
        if "start" in utterance or "end" in utterance:
            times.append(_times(utterance, what))
    if times and len(times) < len(utterances):
        missing = f"{len(utterances) - len(times)} of {len(utterances)} utterances have no times"
        raise WrongLineError(missing, "give 'start' and 'end' for all of a dialogue or for none")
    rows = _rows(record, len(utterances), vectors)
    voted = votes.get(identity)
    if voted is not None and len(voted) != len(utterances):
        raise WrongLineError(
            f"dialogue {identity!r} has {len(utterances)} utterances, but {len(voted)} votes",
            "see that the file of votes belongs to this one, or take it away",
        )
    return Dialogue(
        id=identity,
        speakers=tuple(speakers),
        texts=tuple(texts),
        labels=np.array(classes, np.int64),
        audio=vectors["audio"][rows] if "audio" in vectors else None,
        vision=vectors["vision"][rows] if "vision" in vectors else None,
        times=np.array(times, np.float32) if times else None,
        votes=voted,
    )


def _times(utterance: dict[str, Any], what: str) -> tuple[float, float]:
    start, end = utterance.get("start"), utterance.get("end")
    for key, time in (("start", start), ("end", end)):
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not abs(time) <= MAX_TIME:
            raise WrongLineError(
                f"{what}: {key!r} is {json.dumps(time)}, not a finite number", "give both times in seconds"
            )
    assert start is not None
    assert end is not None
    if end < start:
        raise WrongLineError(f"{what} ends at {end} s, before its start at {start} s", "correct the times")
    return start, end


def _rows(record: dict[str, Any], count: int, vectors: Mapping[str, FloatArray]) -> slice:
    """Which rows of the vectors are this dialogue's."""
    if not vectors:
        return slice(0)
    rows = entry(record, "audio_rows", list, f"dialogue {record['dialogue']!r}")
    if len(rows) != 2 or not all(type(row) is int for row in rows):
        raise WrongLineError(
            f"'audio_rows' is {json.dumps(rows)[:40]}, not two whole numbers", "give [from, to], to excluded"
        )
    first, last = rows
    available = min(len(array) for array in vectors.values())
    if not 0 <= first <= last <= available:
        raise WrongLineError(
            f"'audio_rows' is {rows}, but there are {available} rows", "check that the files belong together"
        )
    if last - first != count:
        raise WrongLineError(
            f"'audio_rows' {rows} are {last - first} rows for {count} utterances", "give one row an utterance"
        )
    return slice(first, last)


def _classes(path: Path, name: str) -> tuple[str, ...]:
    """The classes of a corpus in this layout, ours or another's."""
    try:
        corpus = find_corpus(name)
    except ValueError as error:
        remedy = f"give one of {', '.join(CORPORA)}, or add it as docs/corpora.md says"
        raise CorpusError(path, None, f"{name!r} is not among the known corpora", remedy) from error
    if not isinstance(corpus, DialogueCorpus):
        raise CorpusError(path, None, f"{name} is not in the layout for dialogues", f"give one of {', '.join(CORPORA)}")
    return corpus.classes
