"""A file through the street, as fast as the machine can go: what ``recognize`` and ``extract`` do, without ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.config import NODES, Overrides, Words
from synctva_ros.events import (
    NANOSECONDS,
    SAMPLE_RATE,
    AudioChunk,
    EndedBy,
    Image,
    Transcript,
    TranscriptStatus,
    Utterance,
)
from synctva_ros.sources import new_stream_id
from synctva_ros.sources.files import is_image, read_image, shown
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.pipeline import Pipeline
from synctva_ros.street.stage import Log, Stage
from synctva_ros.street.table import STREET
from synctva_ros.street.turns import TurnsStage
from synctva_ros.street.words import WordsStage

#: Of words, voice and face.
LETTERS = "tav"


@dataclass(frozen=True)
class Sentences:
    """A log that hands each sentence on."""

    info: Callable[[str], Any]
    warning: Callable[[str], Any]

    @property
    def error(self) -> Callable[[str], Any]:
        """As a warning."""
        return self.warning


class GivenWords(WordsStage):
    """The recogniser, and in its place the words of a file where they are known: its longest utterance gets them."""

    def __init__(self, config: Words, log: Log) -> None:
        super().__init__(config, log)
        self.text: str | None = None
        self.longest: tuple[float, float] | None = None  # start and end in the file [s]

    def work(self, event: Utterance) -> Transcript:
        """The words, if this is the utterance that is meant."""
        if self.text is None:
            return super().work(event)
        is_meant = self.longest in (None, (event.stream_start, event.stream_end))
        text = self.text if is_meant else ""
        status = TranscriptStatus.OK if text else TranscriptStatus.NO_MODEL
        return Transcript(event.utterance_id, event.end, status, text, frame_id=event.frame_id)


class Player:
    """Plays file after file through the same stages; time stands still while they compute.

    Args:
        modalities: letters of those to use: t (words), a (voice), v (face).
        overrides: parameters by node, where they differ from the defaults. Words come from ``transcriber.model``; here
            that is empty by default, for no words but those that are given.
        log: called with one sentence about what runs where.
        warn: called with one sentence, which names the file, for what is missing in it.
        dialogue: whether the features go on to the network.

    Raises:
        ImportError: a library is missing.
        ValueError: other letters or parameters, or no usable weights, detector or encoder.
    """

    def __init__(
        self,
        modalities: str,
        overrides: Overrides,
        log: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        dialogue: bool = True,
    ) -> None:
        if not modalities or set(modalities) - set(LETTERS):
            raise ValueError(f"modalities are {modalities!r}; give letters of t (words), a (voice), v (face)")
        words, voice, self._images = (letter in modalities for letter in LETTERS)
        # Nobody waits for an answer: what is done ahead of it would only hold it up.
        wanted: Overrides = {
            "utterance": {"speculate": False, "provisional_interval": 0.0},
            "transcriber": {"model": ""},
            "features": {"face_memory": 600.0},  # a whole clip without speech may be long
        }
        for node, values in overrides.items():
            wanted[node] = wanted.get(node, {}) | values
        wanted["features"] |= ({} if words else {"text_encoder": ""}) | ({} if voice else {"audio_encoder": ""})
        sentences = Sentences(
            log, lambda sentence: warn(f"{shown(self._path)}: {sentence}" if self._path.name else sentence)
        )
        self._path = Path()
        self._warn = warn
        #: In the order of the street.
        self.stages: list[Stage] = []
        self._words: GivenWords | None = None
        for node, build in STREET.items():
            config: Any = NODES[node](**wanted.get(node, {}))
            if node == "transcriber":
                self._words = GivenWords(config, sentences) if words else None
                self.stages += [self._words] if self._words else []
            elif (node != "faces" or self._images) and (node != "emotion" or dialogue):
                self.stages += build(config, sentences)
        self._turns = self.stages[0]
        self._pipeline = Pipeline(self.stages, lambda: self._reached)
        self._reached = 0
        #: Utterances that were found in the last file.
        self.heard = 0

    @property
    def length(self) -> float:
        """How much of the last file has been played [s]."""
        return self._reached / NANOSECONDS

    def play(self, path: Path, text: str | None = None, person: str = "") -> Iterator[Any]:
        """Yield all that leaves any of the stages for one file; its time starts at 0.

        A still image is one utterance without sound, and so is a whole file in which nobody speaks.

        Args:
            path: media file or image.
            text: its words, for ``GivenWords``.
            person: name of the only person who speaks in it; the same in other files; empty: not known.

        Raises:
            SourceError: there is no such file, or it cannot be read.
        """
        self._path = path
        self._pipeline.reset()
        assert isinstance(self._turns, TurnsStage)
        self._turns.person = person
        self._reached = self.heard = 0
        if self._words is not None:
            self._words.text = text
            self._words.longest = self._longest(path) if text else None
        if is_image(path):
            pixels = read_image(path)  # also if nobody looks: a file that cannot be read is said
            if self._images:
                yield from self._pipeline.push(Image(0, pixels, "media"))
            yield from self._pipeline.push(_silent_utterance(new_stream_id("f"), 0))
            return
        notes: list[str] = []
        rate = 10.0 if self._images else 0.0
        media = MediaFile(path, video_rate=rate, warn=notes.append, needs_sound=False)
        for item in media.play(0):
            self._reached = max(self._reached, item.end if isinstance(item, AudioChunk) else item.stamp)
            for event in self._pipeline.push(item):
                self.heard += isinstance(event, Utterance) and event.is_final
                yield event
        for note in notes:
            self._warn(note)
        if not self.heard:
            yield from self._pipeline.push(_silent_utterance(media.stream_id, self._reached))

    def _longest(self, path: Path) -> tuple[float, float] | None:
        """Start and end of the longest utterance [s]; None when nobody speaks."""
        if is_image(path):
            return None
        # Its sound is heard twice for it.
        media = MediaFile(path, video_rate=0.0, warn=lambda sentence: None, needs_sound=False)
        utterances = [
            event
            for chunk in media.play(0)
            for event in self._turns.take(chunk)
            if isinstance(event, Utterance) and event.is_final
        ]
        longest = max(utterances, key=lambda utterance: utterance.end - utterance.start, default=None)
        return None if longest is None else (longest.stream_start, longest.stream_end)


def _silent_utterance(stream_id: str, end: int) -> Utterance:
    """A file as one utterance without sound, from its start to ``end`` [ns]."""
    return Utterance(
        utterance_id=f"{stream_id}_0",
        stream_id=stream_id,
        first_sequence=0,
        last_sequence=0,
        start=0,
        end=end,
        stream_start=0.0,
        stream_end=end / NANOSECONDS,
        ended_by=EndedBy.END_OF_STREAM,
        samples_start=0,
        sample_rate=SAMPLE_RATE,
        samples=np.zeros(0, np.float32),
        rms=0.0,
        clipped=False,
        frame_id="media",
        durations={"turns": 0.0},
    )
