"""Media files and images → estimates: what the running graph does, without waiting for anything.

The pipeline is that of the nodes, with the nodes' defaults, so an estimate is the one that the graph would publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctva_ros.config import Overrides
from synctva_ros.events import Emotion, Features
from synctva_ros.sources.files import is_image, match_files, read_table, shown
from synctva_ros.street.playback import LETTERS, Player


@dataclass
class RecognizerCounters:
    """What was found so far: utterances, and files without any."""

    utterances: int = 0
    without_speech: int = 0
    without_face: int = 0


class Recognizer:
    """Recognises file after file with models that are loaded once.

    Args:
        modalities, overrides, log, warn: as :class:`~synctva_ros.street.playback.Player` takes them.

    Raises:
        ImportError, ValueError: as there.
    """

    def __init__(
        self,
        modalities: str = LETTERS,
        overrides: Overrides | None = None,
        *,
        log: Callable[[str], None] = lambda sentence: None,
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.counters = RecognizerCounters()
        self._warn = warn
        self._player = Player(modalities, overrides or {}, log, warn)

    def recognize(self, path: Path, text: str | None = None, person: str = "") -> Iterator[dict[str, Any]]:
        """Estimate the utterances of a file, which is a dialogue of its own.

        A still image is an utterance of the face alone, and so is a whole clip with images but without speech. Where
        nothing is found there are no utterances, but a warning, and one more in ``counters``.

        Args:
            path: media file or image.
            text: its words; of several utterances the longest gets them. Whisper is not asked then.
            person: name of the only person who speaks in it: what is usual for them goes on from file to file.

        Yields:
            For each utterance the fields of ``Emotion`` as JSON knows them, and ``file``. Times count from the start of
            the file; the time since the end of speech is the hang-over alone, as nobody waits for the computing.

        Raises:
            SourceError: there is no such file, or it cannot be read.
        """
        features: Features | None = None
        for event in self._player.play(path, text, person):
            if isinstance(event, Features):
                features = event
            elif isinstance(event, Emotion) and features is not None:
                if not (event.modalities or features.text or self._player.heard):
                    self._nothing(path, features)
                    continue
                self.counters.utterances += 1
                yield {"file": shown(path)} | event.as_json()

    def _nothing(self, path: Path, features: Features) -> None:
        if features.frames_seen:
            self.counters.without_face += 1
            where = "it" if is_image(path) else f"its {features.frames_seen} images, and no speech either"
            seen = "no face that can be read" if features.frames_with_face else "no face"
            self._warn(f"{shown(path)}: {seen} is found in {where}")
        else:
            self.counters.without_speech += 1
            self._warn(f"{shown(path)}: no speech is found in it")


def read_column(table: Path, column: str, files: list[Path], warn: Callable[[str], None]) -> dict[Path, str]:
    """What a CSV table with the columns ``file`` and ``column`` says of the files.

    A row names a file by its path or the end of it, such as its path in the folder, or its name alone.

    Args:
        table: the CSV file.
        column: such as "text".
        files: those that may be meant.
        warn: called with one sentence for a row that means none of them.

    Raises:
        ValueError: the table is malformed, or a row may mean several files.
    """
    rows = read_table(table, column)
    named = {shown(file): file for file in files}
    try:
        meant = match_files(rows, list(named))
    except ValueError as error:
        raise ValueError(f"{shown(table)}: {error}") from error
    for name, (line, _) in rows.items():
        if name not in meant:
            warn(f"{shown(table)}, line {line}: {name} is none of the {len(files)} files")
    return {named[file]: rows[name][1].strip() for name, file in meant.items()}
