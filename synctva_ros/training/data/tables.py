"""Files of lines, of which each is parsed by itself: CSV tables and lines of JSON, read in one way for all corpora."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from synctva_ros.sources.files import FileError, read_rows
from synctva_ros.training.data.protocol import CorpusError

T = TypeVar("T")


class WrongLineError(ValueError):
    """Reason and remedy, on the way to where file and line are known."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy


def read_table(
    path: Path, columns: Sequence[str], parse: Callable[[Mapping[str, str]], T], *, windows: bool = False
) -> list[T]:
    """What ``parse`` makes of each row of a CSV table, which has at least these columns.

    Args:
        path: of the table.
        columns: that must be there.
        parse: gets the cells by column, and raises ValueError for what it does not understand.
        windows: see ``read_rows``.

    Raises:
        CorpusError: there is no such file, it is no such table, or ``parse`` raised.
    """
    parsed = []
    try:
        for line, row in read_rows(path, columns, windows=windows):
            try:
                parsed.append(parse(row))
            except ValueError as error:
                raise CorpusError(path, line, str(error), "correct the row, or take it out") from error
    except CorpusError:
        raise
    except FileError as error:
        raise CorpusError(path, error.line, error.reason, error.remedy) from error
    return parsed


def read_json_lines(path: Path, parse: Callable[[Any], T]) -> list[T]:
    """What ``parse`` makes of each line of JSON; only a line feed ends a line.

    Args:
        path: of the file.
        parse: gets what stands in a line, and raises WrongLineError or ValueError for what it does not understand.

    Raises:
        CorpusError: there is no such file, it is empty, a line is no JSON, or ``parse`` raised.
    """
    if not path.is_file():
        raise CorpusError(path, None, "there is no such file", "check the folder, the corpus and the split")
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise CorpusError(path, None, "the file is empty", "write one JSON object a line into it")
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            remedy = "write one JSON object on one line"
            raise CorpusError(path, number, f"it is not JSON ({error})", remedy) from error
        try:
            parsed.append(parse(value))
        except WrongLineError as error:
            raise CorpusError(path, number, error.reason, error.remedy) from error
        except ValueError as error:
            raise CorpusError(path, number, str(error), "correct the line, or take it out") from error
    return parsed


def entry(record: Any, key: str, kind: type, what: str) -> Any:
    """The entry of a JSON object, which must be there and of this kind.

    Raises:
        WrongLineError: it is not; ``what`` names the object.
    """
    if not isinstance(record, dict):
        raise WrongLineError(f"{what} is not a JSON object", "see the layout in docs/corpora.md")
    if key not in record:
        raise WrongLineError(f"{what} has no {key!r}", "add it")
    if not isinstance(record[key], kind):
        raise WrongLineError(
            f"{what}: {key!r} is {json.dumps(record[key])[:40]}, not a {'text' if kind is str else 'list'}",
            "correct it",
        )
    return record[key]
