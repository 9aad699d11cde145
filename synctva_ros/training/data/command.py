"""The command that looks at corpora."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_data_commands(commands: Any) -> None:
    """Add ``data check`` to what ``ArgumentParser.add_subparsers`` returned.

    It sets ``handler``, which returns the exit status and raises what there is to be said.
    """
    data = commands.add_parser(
        "data",
        help="look at corpora",
        description="What there is of corpora, before anything is trained on them.",
        epilog="Example: synctva data check --data DIR",
    )
    check = data.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "check",
        help="what a folder has of each corpus, and what its splits share",
        description="For each corpus that is there: licence, classes, items, persons, and what its splits, or it and a "
        "corpus from the same source, share: pictures, texts with the same neighbours, recordings, persons; how many "
        "of the one and of the other.",
        epilog="Example: synctva data check --data DIR --corpus fer2013 meld",
    )
    check.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")
    check.add_argument(
        "--corpus",
        nargs="+",
        default=(),
        metavar="NAME",
        help="only these, by name or as module:NAME (default: all that are known and there)",
    )
    check.set_defaults(handler=_check)


def _check(arguments: argparse.Namespace) -> int:
    from synctva_ros.training.data.overlap import check

    for line in check(arguments.data, arguments.corpus):
        print(line, flush=True)
    return 0
