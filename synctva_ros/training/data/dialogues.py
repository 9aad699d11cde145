"""Corpora of dialogues, with speakers, words, labels and, where there are any, vectors and times.

A split of a corpus is a file of JSON lines, ``NAME_SPLIT.jsonl``, and beside it an array for each further modality,
``NAME_SPLIT_audio.npz`` and ``NAME_SPLIT_vision.npz``. ``docs/corpora.md`` describes them.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.sources.files import writing

IntArray = NDArray[np.int64]

#: Name of each corpus and its classes, in the order of a network's outputs.
CORPORA: dict[str, tuple[str, ...]] = {
    "meld": EMOTIONS,
    "dailydialog": EMOTIONS,
    "iemocap": ("hap", "sad", "neu", "ang", "exc", "fru"),
    "emorynlp": ("joyful", "neutral", "powerful", "mad", "sad", "scared", "peaceful"),
}
#: What other corpora (RAVDESS, FER2013) call our classes. Calm speech is neutral.
NAMES = {
    "calm": "neutral",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "fearful": "fear",
    "disgusted": "disgust",
}
#: What may lie beside the words.
VECTORS = ("audio", "vision")
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
    """

    id: str
    speakers: tuple[str, ...]
    texts: tuple[str, ...]
    labels: IntArray
    audio: FloatArray | None
    vision: FloatArray | None
    times: FloatArray | None


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


class CorpusError(ValueError):
    """A file of a corpus cannot be used: which one, which line of it (from 1), why, and what to do."""

    def __init__(self, file: Path, line: int | None, reason: str, remedy: str) -> None:
        super().__init__(f"{file}{f', line {line}' if line else ''}: {reason}; {remedy}")
        self.file = file
        self.line = line
        self.reason = reason
        self.remedy = remedy


class _Wrong(ValueError):
    """Reason and remedy, on the way to where file and line are known."""


def class_index(name: str) -> int:
    """Index into ``EMOTIONS`` of a corpus's class name.

    Raises:
        ValueError: it is none of them by any name.
    """
    emotion = NAMES.get(name, name)
    if emotion not in EMOTIONS:
        raise ValueError(f"class {name!r} is none of {', '.join(EMOTIONS)}: say in NAMES which of them it is")
    return EMOTIONS.index(emotion)


def as_written(text: str) -> str:
    """MELD's text with its stray Windows-1252 characters put right."""
    return re.sub("[\x80-\x9f]", lambda c: c[0].encode("latin-1").decode("cp1252", "ignore"), text).strip()


def as_recognised(text: str) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s']", " ", text.lower().replace("\u2019", "'"))).strip()


def read_corpus(folder: Path, name: str, split: str) -> Corpus:
    """Read one split of a corpus; vectors whose file is missing are None.

    Raises:
        CorpusError: No such corpus or file, or something in it is not as ``docs/corpora.md`` says.
    """
    path = folder / f"{name}_{split}.jsonl"
    if name not in CORPORA:
        raise CorpusError(path, None, f"{name!r} is not among the known corpora", f"give one of {', '.join(CORPORA)}")
    if not path.is_file():
        raise CorpusError(path, None, "there is no such file", "check the folder, the corpus and the split")
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise CorpusError(path, None, "the file is empty", "write one dialogue a line into it")
    vectors: dict[str, FloatArray] = {}
    encoders: dict[str, str] = {}
    for modality in VECTORS:
        file = _vector_file(folder, name, split, modality)
        if file.is_file():
            try:
                vectors[modality], encoders[modality] = _read_vectors(file, modality)
            except _Wrong as wrong:
                raise CorpusError(file, None, *wrong.args) from wrong
    if len({len(rows) for rows in vectors.values()}) > 1:
        audio, vision = (len(vectors[modality]) for modality in VECTORS)
        file = _vector_file(folder, name, split, "vision")
        raise CorpusError(file, None, f"it has {vision} rows, but audio has {audio}", "extract both from the same file")
    dialogues: dict[str, Dialogue] = {}
    for number, line in enumerate(lines, start=1):
        try:
            dialogue = _dialogue(line, CORPORA[name], vectors)
            if dialogue.id in dialogues:
                first = list(dialogues).index(dialogue.id) + 1
                raise _Wrong(f"dialogue {dialogue.id!r} is on line {first} already", "give each dialogue its own id")
        except _Wrong as wrong:
            raise CorpusError(path, number, *wrong.args) from wrong
        dialogues[dialogue.id] = dialogue
    widths = {modality: rows.shape[1] for modality, rows in vectors.items()}
    return Corpus(name, split, CORPORA[name], tuple(dialogues.values()), encoders, widths)


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write what ``read_corpus`` reads, over what is there; the words must be as ``as_written`` leaves them.

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
    path = folder / f"{corpus.name}_{corpus.split}.jsonl"
    with writing(path), path.open("w", encoding="utf-8", newline="\n") as file:
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
            file.write(json.dumps(record) + "\n")


def _vector_file(folder: Path, name: str, split: str, modality: str) -> Path:
    return folder / f"{name}_{split}_{modality}.npz"


def _read_vectors(path: Path, modality: str) -> tuple[FloatArray, str]:
    """All rows ``[rows, width]`` of a file and the name of their encoder."""
    remedy = f"write it with numpy.savez and an array {modality!r}"
    try:
        with np.load(path, allow_pickle=False) as file:
            array = file[modality]
            encoder = file["encoder"] if "encoder" in file else np.array("")
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _Wrong(f"the vectors cannot be read ({error})", remedy) from error
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind != "f":
        raise _Wrong(f"{modality!r} has shape {array.shape} and type {array.dtype}, not floats [rows, width]", remedy)
    if encoder.ndim != 0 or encoder.dtype.kind != "U":
        raise _Wrong("'encoder' is not a text", "write the encoder's name into it, or leave it out")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is found below
        vectors = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(1) & ~np.isnan(vectors).all(1))
    if len(bad):
        raise _Wrong(
            f"{len(bad)} of {len(vectors)} rows have values that are NaN or infinite, first row {bad[0]} (from 0)",
            "correct them, or fill the whole row with NaN if the utterance has no such vector",
        )
    return vectors, str(encoder)


def _dialogue(line: bytes, labels: tuple[str, ...], vectors: Mapping[str, FloatArray]) -> Dialogue:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _Wrong(f"it is not JSON ({error})", "write each dialogue as one JSON object on one line") from error
    identity = _value(record, "dialogue", str, "a dialogue")
    utterances = _value(record, "utterances", list, f"dialogue {identity!r}")
    if not utterances:
        raise _Wrong(f"dialogue {identity!r} has no utterances", "take the line out")
    speakers, texts, classes, times = [], [], [], []
    for number, utterance in enumerate(utterances, start=1):
        what = f"utterance {number} of {len(utterances)}"
        speakers.append(_value(utterance, "speaker", str, what))
        texts.append(as_written(_value(utterance, "text", str, what)))
        emotion = _value(utterance, "emotion", str, what)
        if emotion not in labels:
            raise _Wrong(f"{what}: class {emotion!r} is unknown", f"give one of {', '.join(labels)}")
        classes.append(labels.index(emotion))
        if "start" in utterance or "end" in utterance:
            times.append(_times(utterance, what))
    if times and len(times) < len(utterances):
        missing = f"{len(utterances) - len(times)} of {len(utterances)} utterances have no times"
        raise _Wrong(missing, "give 'start' and 'end' for all of a dialogue or for none")
    rows = _rows(record, len(utterances), vectors)
    return Dialogue(
        id=identity,
        speakers=tuple(speakers),
        texts=tuple(texts),
        labels=np.array(classes, np.int64),
        audio=vectors["audio"][rows] if "audio" in vectors else None,
        vision=vectors["vision"][rows] if "vision" in vectors else None,
        times=np.array(times, np.float32) if times else None,
    )


def _value(record: Any, key: str, kind: type, what: str) -> Any:
    """The entry of a JSON object, which must be there and of this kind."""
    if not isinstance(record, dict):
        raise _Wrong(f"{what} is not a JSON object", "see the layout in docs/corpora.md")
    if key not in record:
        raise _Wrong(f"{what} has no {key!r}", "add it")
    if not isinstance(record[key], kind):
        raise _Wrong(
            f"{what}: {key!r} is {json.dumps(record[key])[:40]}, not a {'text' if kind is str else 'list'}",
            "correct it",
        )
    return record[key]


def _times(utterance: dict[str, Any], what: str) -> tuple[float, float]:
    start, end = utterance.get("start"), utterance.get("end")
    for key, time in (("start", start), ("end", end)):
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not abs(time) <= MAX_TIME:
            raise _Wrong(f"{what}: {key!r} is {json.dumps(time)}, not a finite number", "give both times in seconds")
    assert start is not None
    assert end is not None
    if end < start:
        raise _Wrong(f"{what} ends at {end} s, before its start at {start} s", "correct the times")
    return start, end


def _rows(record: dict[str, Any], count: int, vectors: Mapping[str, FloatArray]) -> slice:
    """Which rows of the vectors are this dialogue's."""
    if not vectors:
        return slice(0)
    rows = _value(record, "audio_rows", list, f"dialogue {record['dialogue']!r}")
    if len(rows) != 2 or not all(type(row) is int for row in rows):
        raise _Wrong(f"'audio_rows' is {json.dumps(rows)[:40]}, not two whole numbers", "give [from, to], to excluded")
    first, last = rows
    available = min(len(array) for array in vectors.values())
    if not 0 <= first <= last <= available:
        raise _Wrong(f"'audio_rows' is {rows}, but there are {available} rows", "check that the files belong together")
    if last - first != count:
        raise _Wrong(f"'audio_rows' {rows} are {last - first} rows for {count} utterances", "give one row an utterance")
    return slice(first, last)
