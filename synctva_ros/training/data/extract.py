"""MELD as its authors distribute it (a CSV table and a clip per utterance) → a corpus with our encoders' vectors.

A clip goes down the same street as in the running graph, from the end-pointer to the features, so its vectors are those
that the graph would make. A row is one utterance: of several that are found in its clip the longest counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synctva_ros.config import Value
from synctva_ros.events import MODALITIES, Features, FloatArray
from synctva_ros.sources.files import shown
from synctva_ros.sources.microphone import SourceError
from synctva_ros.street.faces import FacesStage
from synctva_ros.street.playback import Player
from synctva_ros.street.voice import VoiceStage
from synctva_ros.training.data.dialogues import CORPORA, Corpus, Dialogue, as_written, write_corpus
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.data.tables import read_table

#: The columns that are read; MELD has more.
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
#: A clip that is longer or shorter than its row by this factor, and this many seconds, is another one.
OTHER_LENGTH = (2.0, 1.0)
#: Hours, minutes, seconds and a decimal fraction; where digits are missing, it is the last ones. MELD's training table
#: has one such time, 00:06:47,28. The others of its episode lie 0.2 to 1 ms behind a picture of the film (23.976 a
#: second), and so does 47.282 s, of which 28 hundredths are left. 28 thousandths lie 3.6 ms before a picture.
TIME = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d),(\d{1,3})")


@dataclass(frozen=True)
class TableRow:
    """A row of the table: an utterance; times in seconds from the start of the episode."""

    dialogue: int
    utterance: int
    speaker: str
    text: str
    emotion: str
    start: float
    end: float

    @property
    def clip(self) -> str:
        """Name of the file with its sound and images."""
        return f"dia{self.dialogue}_utt{self.utterance}.mp4"


def read_meld(path: Path) -> list[TableRow]:
    """The rows of MELD's table by dialogue, and in each by utterance.

    Raises:
        CorpusError: No such file, a column is missing, or a row is not as MELD's are.
    """
    seen: set[tuple[int, int]] = set()

    def parse(cell: Mapping[str, str]) -> TableRow:
        row = _table_row(cell)
        if (row.dialogue, row.utterance) in seen:
            raise ValueError(f"utterance {row.utterance} of dialogue {row.dialogue} is there twice")
        seen.add((row.dialogue, row.utterance))
        return row

    rows = read_table(path, COLUMNS, parse, windows=True)
    if not rows:
        raise CorpusError(path, None, "there are no utterances in it", "give MELD's table, such as train_sent_emo.csv")
    return sorted(rows, key=lambda row: (row.dialogue, row.utterance))


def _table_row(cell: Mapping[str, str]) -> TableRow:
    for column in ("Dialogue_ID", "Utterance_ID"):
        if not re.fullmatch(r"\d{1,9}", cell[column], re.ASCII):
            raise ValueError(f"{column} is {cell[column]!r}, not a whole number")
    emotion = cell["Emotion"].strip()
    if emotion not in CORPORA["meld"]:
        raise ValueError(f"Emotion is {emotion!r}, which is none of {', '.join(CORPORA['meld'])}")
    start, end = (_seconds(column, cell[column]) for column in ("StartTime", "EndTime"))
    if end < start:
        raise ValueError(f"EndTime {cell['EndTime']} is before StartTime {cell['StartTime']}")
    dialogue, utterance = int(cell["Dialogue_ID"]), int(cell["Utterance_ID"])
    return TableRow(dialogue, utterance, cell["Speaker"].strip(), as_written(cell["Utterance"]), emotion, start, end)


def _seconds(column: str, time: str) -> float:
    found = TIME.fullmatch(time.strip())
    if found is None:
        raise ValueError(f"{column} is {time!r}, not a time such as 00:21:06,240")
    hours, minutes, seconds, fraction = found.groups()
    return (int(hours) * 60 + int(minutes)) * 60 + float(f"{seconds}.{fraction}")


class ClipEncoder:
    """A clip → the vectors of its voice and its face, as the running graph makes them of its longest utterance.

    Args:
        modalities: "a" for the voice, "v" for the face, "av" for both.
        face_detector: as the parameter of the node ``faces``.
        warn: called with one sentence, which names the clip, for what is missing in it.

    Raises:
        ImportError: OpenCV is missing.
        ValueError: Other modalities, or no usable face detector.

    """

    def __init__(self, modalities: str, face_detector: str, warn: Callable[[str], None]) -> None:
        if modalities not in ("a", "v", "av"):
            raise ValueError(f"modalities are {modalities!r}; give a (voice), v (face) or av (both)")
        self._modalities = modalities
        #: Of the last clip [s].
        self.length = 0.0
        self._warn = warn
        faces: dict[str, Value] = {"face_detector": face_detector}
        self._player = Player(modalities, {"faces": faces}, lambda sentence: None, warn, dialogue=False)
        #: Of the modalities that were asked for.
        found = {one.modality: one.encoder for one in self._player.stages if isinstance(one, VoiceStage | FacesStage)}
        self.encoders = {modality: found[modality] for modality in MODALITIES if modality in found}

    def encode(self, path: Path) -> Features:
        """Vectors of voice and face; None for what is not there or was not asked for. ``length`` tells of the clip.

        Where nobody speaks there is no voice, and the face is that of the whole clip.

        Raises:
            SourceError: There is no such file, or it is no media file.
        """
        found = [event for event in self._player.play(path) if isinstance(event, Features)]
        self.length = self._player.length
        longest = max(found, key=lambda features: features.end - features.start)
        if "a" in self._modalities and longest.audio_vector is None:
            self._warn(f"{shown(path)}: no speech is found in it")
        if "v" in self._modalities and longest.vision_vector is None:
            self._warn(f"{shown(path)}: no face that can be read is found in {longest.frames_seen} images")
        return longest


def extract_meld(
    csv: Path,
    clips: Path,
    out: Path,
    split: str,
    *,
    modalities: str = "av",
    face_detector: str = "",
    progress: bool = True,
) -> Corpus:
    """Encode a split of MELD and write it as a corpus.

    A clip that is missing, cannot be decoded, is much longer or shorter than its row, or has no sound or no face is
    named on standard error; its utterance then has no such vector. Times are those of the table, in seconds from the
    start of the episode.

    Args:
        csv: MELD's table of this split.
        clips: folder of its clips, ``dia0_utt0.mp4`` and so on.
        out: folder for the corpus; an older one of this split is replaced.
        split: such as "train"; part of the files' names.
        modalities: "a" for the voice, "v" for the face, "av" for both.
        face_detector: as ``FaceDetector`` takes it. Take the one of the robot.
        progress: show a bar.

    Returns:
        What was written.

    Raises:
        CorpusError: The table is malformed, or none of its clips is in the folder.
        ImportError: tqdm or OpenCV is missing.
        ValueError: Other modalities, or no usable face detector.
        OSError: The folder ``out`` cannot be written to.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f"extract: {error}; install it with: pip install tqdm") from error

    def say(sentence: str) -> None:
        tqdm.write(sentence, file=sys.stderr)  # above the bar instead of into it

    rows = read_meld(csv)
    if not any((clips / row.clip).is_file() for row in rows):
        reason = f"none of the table's {len(rows)} clips, such as {rows[0].clip}, is in this folder"
        raise CorpusError(clips, None, reason, "give the folder in which the clips of this split are")
    encoder = ClipEncoder(modalities, face_detector, say)
    out.mkdir(parents=True, exist_ok=True)  # said before hours of work, not after them
    widths = {name: wanted.width for name, wanted in encoder.encoders.items()}
    vectors = {name: np.full((len(rows), width), np.nan, np.float32) for name, width in widths.items()}
    unread = others = 0
    for number, row in enumerate(tqdm(rows, unit="clip", disable=not progress)):
        try:
            found = encoder.encode(clips / row.clip)
        except SourceError as error:
            unread += 1
            say(str(error))
            continue
        length, wanted = encoder.length, row.end - row.start
        factor, seconds = OTHER_LENGTH
        if max(length, wanted) > factor * min(length, wanted) + seconds:
            others += 1
            say(
                f"{shown(clips / row.clip)}: the clip is {length:.1f} s long, but its row in {shown(csv)} "
                f"{wanted:.1f} s; it is left out"
            )
            continue
        for name, array in vectors.items():
            vector = found.vectors[MODALITIES.index(name)]
            if vector is not None:
                array[number] = vector
    corpus = Corpus(
        name="meld",
        split=split,
        labels=CORPORA["meld"],
        dialogues=_dialogues(rows, vectors),
        encoders={name: wanted.name for name, wanted in encoder.encoders.items()},
        widths=widths,
    )
    write_corpus(corpus, out)
    there = [f"{name} in {int(np.isfinite(array[:, 0]).sum())}" for name, array in vectors.items()]
    lengths = f"; {others} much longer or shorter than their rows are left out" if others else ""
    say(f"{len(rows)} utterances: {', '.join(there)}; {unread} clips are missing or cannot be read{lengths}")
    return corpus


def _dialogues(rows: list[TableRow], vectors: dict[str, FloatArray]) -> tuple[Dialogue, ...]:
    ids = np.array([row.dialogue for row in rows])
    dialogues = []
    for identity in np.unique(ids):
        numbers = np.flatnonzero(ids == identity)
        turns = [rows[number] for number in numbers]
        dialogues.append(
            Dialogue(
                id=str(identity),
                speakers=tuple(row.speaker for row in turns),
                texts=tuple(row.text for row in turns),
                labels=np.array([CORPORA["meld"].index(row.emotion) for row in turns], np.int64),
                audio=vectors["audio"][numbers] if "audio" in vectors else None,
                vision=vectors["vision"][numbers] if "vision" in vectors else None,
                times=np.array([(row.start, row.end) for row in turns], np.float32),
            )
        )
    return tuple(dialogues)
