"""Which files there are to recognise, and tables that say something of each of them."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from synctva_ros.sources.microphone import SourceError

#: Endings of still images.
IMAGES = frozenset((".bmp", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"))
#: Endings of what may hold sound or video; FFmpeg reads more, which has to be named as a file.
MEDIA = frozenset(
    (
        *(".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp2", ".mp3", ".oga"),
        *(".ogg", ".opus", ".wav", ".wma"),
        *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)


@dataclass(frozen=True)
class FoundFiles:
    """What ``find_files`` found: the files in order, and how many of another type lie in the folders."""

    files: tuple[Path, ...]
    skipped: int


def find_files(paths: Iterable[Path]) -> FoundFiles:
    """Files as named, and the media files and images in folders, sorted; each file once.

    A file that is named is taken as it is, of whatever type, also if it does not exist. In folders and those in them,
    what is hidden (a name with a dot in front) does not count. Links to folders are followed behind everything else, to
    folders that were not there before; a folder that cannot be read is among the files, so that somebody hears of it.
    """
    files: dict[Path, None] = {}
    skipped = 0
    for path in paths:
        if not path.is_dir():
            files[path] = None
            continue
        entered: set[tuple[int, int]] = set()
        folders = [path]
        for top in folders:  # it grows with the links
            for folder, inner, names in os.walk(top, onerror=lambda error: files.setdefault(Path(error.filename))):
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in entered:
                    inner.clear()
                    continue
                entered.add((status.st_dev, status.st_ino))
                inner[:] = sorted(name for name in inner if not name.startswith("."))
                folders += [Path(folder, name) for name in inner if os.path.islink(os.path.join(folder, name))]
                for name in sorted(names):
                    if name.startswith("."):
                        continue
                    if Path(name).suffix.lower() in IMAGES | MEDIA:
                        files[Path(folder, name)] = None
                    else:
                        skipped += 1
    return FoundFiles(tuple(files), skipped)


def shown(path: str | PurePath) -> str:
    """A path for people and for JSON: a byte that is no UTF-8 becomes a backslash, x and two digits, as shells know."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def writing(path: str | PurePath) -> Iterator[None]:
    """Errors of writing name the file; of a full disk, Python itself does not say which.

    Raises:
        OSError: as within, with a sentence.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read it has had enough
    except OSError as error:
        reason = error.strerror or error
        remedies = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, or ")
        remedies[errno.ENOENT] = "make its folder, or "
        remedy = remedies.get(error.errno or 0, "") + "name another file"
        raise OSError(f"{shown(path)}: it cannot be written ({reason}); {remedy}") from error


class LineWriter:
    """A file of lines of JSON, each there as soon as it is written.

    Raises:
        OSError: it cannot be opened or written; the sentence names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, value: Any) -> None:
        """One more line."""
        with writing(self._path):
            self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._file.flush()

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._file.close()


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """What stands in a file of lines of JSON, which only a line feed ends: U+2028 and its like may stand in them.

    Yields:
        The line's number from 1 and what it holds. Empty lines are left out.

    Raises:
        ValueError: there is no such file, or a line is no JSON; the sentence says which.
    """
    if not path.is_file():
        raise ValueError(f"{shown(path)}: there is no such file; give what synctva recognize --json wrote")
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{shown(path)}, line {number}: it is no utterance ({error}); give what synctva recognize --json "
                    "wrote"
                ) from error


def is_image(path: Path) -> bool:
    """Whether the name says that it is a still image."""
    return path.suffix.lower() in IMAGES


def read_image(path: Path) -> NDArray[np.uint8]:
    """A still image as BGR ``[h, w, 3]``, turned as its EXIF data says.

    Raises:
        SourceError: there is no such file, or it is no image.
    """
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        raise SourceError(
            f"{shown(path)}: {'there is no such file' if not path.exists() else error.strerror}"
        ) from error
    except cv2.error as error:  # no bytes at all, or more pixels than OpenCV takes
        raise SourceError(f"{shown(path)}: cannot be read as an image ({error.err})") from error
    if image is None:
        raise SourceError(f"{shown(path)}: cannot be read as an image; open it in a viewer to see whether it is whole")
    return cast(NDArray[np.uint8], image)


class FileError(ValueError):
    """A file cannot be used: which one, which line of it (from 1), why, and what to do."""

    def __init__(self, file: Path, line: int | None, reason: str, remedy: str) -> None:
        super().__init__(f"{shown(file)}{f', line {line}' if line else ''}: {reason}; {remedy}")
        self.file = file
        self.line = line
        self.reason = reason
        self.remedy = remedy


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """Decode what is no UTF-8 as Windows-1252, or raise the error again."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    try:
        return error.object[error.start : error.end].decode("cp1252"), error.end
    except UnicodeDecodeError:
        raise error from None


codecs.register_error("synctva_ros.windows", _as_windows)


def read_rows(path: Path, columns: Sequence[str], *, windows: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table in UTF-8, whose first line names at least these columns.

    Args:
        path: of the table.
        columns: that must be there; others may be.
        windows: bytes that are no UTF-8 are known to be Windows-1252; otherwise they are refused, for a guess would
            make other words of them.

    Yields:
        The number of the line in which the row begins, and its cells by the names of all columns. Empty lines are left
        out.

    Raises:
        FileError: there is no such file, or it is not such a table.
    """
    wanted = " and ".join(part for part in (", ".join(columns[:-1]), columns[-1]) if part)
    if not path.is_file():
        raise FileError(path, None, "there is no such file", f"give a CSV table with the columns {wanted}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig", "synctva_ros.windows" if windows else "strict")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        reason = f"it is {'neither UTF-8 nor Windows-1252' if windows else 'not UTF-8'} ({error.reason})"
        raise FileError(path, line, reason, "save the table as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1  # a cell in quotes may go over several lines: the first one is named
    try:
        header = next(reader, [])
        if missing := [name for name in columns if name not in header]:
            reason = f"column {' and '.join(missing)} is missing"
            raise FileError(path, line, reason, f"the first line must name {wanted}")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    reason = f"the row has {len(cells)} cells, the first line {len(header)}"
                    raise FileError(path, line, reason, "put cells with commas into quotes")
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise FileError(path, line, str(error), "correct the quotes") from error


def read_table(path: Path, column: str) -> dict[str, tuple[int, str]]:
    """A CSV table with a first line that names at least the columns ``file`` and ``column``.

    Returns:
        For each file (as it is written there) the number of its line and what stands in ``column``.

    Raises:
        FileError: there is no such file, or it is not such a table.
    """
    rows: dict[str, tuple[int, str]] = {}
    for line, row in read_rows(path, ("file", column)):
        if row["file"] in rows:
            raise FileError(path, line, f"{row['file']} is also in line {rows[row['file']][0]}", "take one out")
        rows[row["file"]] = line, row[column]
    return rows


def match_files(names: Iterable[str], files: Sequence[str]) -> dict[str, str]:
    """Which file each name means: the one whose path is the name, or ends with it.

    So ``a/b.wav`` may be called ``b.wav`` too. Of several, that in the uppermost folder is meant. A file belongs to one
    name, the one that says most of its path.

    Returns:
        The file by name; names that mean none are not in it.

    Raises:
        ValueError: a name may mean either of two files.
    """
    by_end: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        parts = PurePath(file).parts
        for first in range(len(parts)):
            by_end.setdefault(parts[first:], []).append(file)
    found: dict[str, str] = {}
    taken: set[str] = set()
    paths: dict[str, tuple[str, ...]] = {}
    for name in names:  # a backslash may be part of a name, or what a table from Windows has between folders
        as_it_is = PurePath(name).parts
        paths[name] = as_it_is if as_it_is in by_end else PurePath(name.strip().replace("\\", "/")).parts
    for name in sorted(paths, key=lambda name: -len(paths[name])):
        free = [file for file in by_end.get(paths[name], []) if file not in taken]
        least = min((len(PurePath(file).parts) for file in free), default=0)
        meant = [file for file in free if len(PurePath(file).parts) == least]
        if len(meant) > 1:
            raise ValueError(f"{name} may be {meant[0]} or {meant[1]}; write more of its path")
        if meant:
            found[name] = meant[0]
            taken.add(meant[0])
    return found
