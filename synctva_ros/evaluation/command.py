"""The commands that compare answers with the truth. Nothing heavy is imported before one of them is called."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_evaluation_commands(commands: Any) -> None:
    """Add ``score`` and ``compare`` to what ``ArgumentParser.add_subparsers`` returned.

    Each sets ``handler``, which returns the exit status and raises what there is to be said.
    """
    score = commands.add_parser(
        "score",
        help="compare what synctva recognize wrote with the truth",
        description="How often the estimates are right, file by file. Of several utterances of a file the "
        "probabilities are averaged by duration; a file with a label but no utterance counts as wrong.",
        epilog="Example: synctva score emotions.jsonl --labels labels.csv --report scores.html",
    )
    score.add_argument("recognised", type=Path, metavar="RECOGNISED.jsonl", help="what recognize --json wrote")
    score.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="CSV with the columns file and emotion, also actor if you know it, or a folder with one folder per class "
        "(default: the class is the name of the folder that a file is in)",
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions here, for compare")
    score.add_argument("--report", type=Path, metavar="FILE", help="write a page with plots here (HTML)")
    score.set_defaults(handler=_score)

    compare = commands.add_parser(
        "compare",
        help="whether two runs differ",
        description="Compare what two networks say of the same utterances, or two recognitions of the same files: "
        "the difference of each figure, its interval and p value, and whether one is better. Dialogues (persons, "
        "files) are drawn anew, the same for both, and so are the seeds.",
        epilog="Example: synctva compare RUN OTHER",
    )
    for letter in "ab":
        compare.add_argument(
            letter,
            type=Path,
            metavar=letter.upper(),
            help="a run folder (its validation split), or what evaluate or score wrote with --json",
        )
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here")
    compare.set_defaults(handler=_compare)


def _score(arguments: argparse.Namespace) -> int:
    look_for_matplotlib(arguments)
    from synctva_ros.evaluation.predictions import write_figures
    from synctva_ros.evaluation.score import figures, judge, print_figures, write_page

    found = judge(arguments.recognised, arguments.labels, lambda sentence: print(sentence, file=sys.stderr))
    reached = figures(found)
    print_figures(reached)
    if arguments.json is not None:
        write_figures(reached, found.predictions, arguments.json)
    if arguments.report is not None:
        write_page(found, arguments.recognised, arguments.report)
        print(f"plots: {arguments.report}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    look_for(arguments.a, arguments.b)
    from synctva_ros.evaluation.compare import compare, print_comparison
    from synctva_ros.sources.files import writing

    found = compare(arguments.a, arguments.b)
    print_comparison(found)
    if arguments.json is not None:
        with writing(arguments.json):
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def look_for(*paths: Path) -> None:
    """Say that something is not there before PyTorch is loaded, which takes seconds; the rest is judged later.

    Raises:
        ValueError: the sentence says which.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")


def look_for_matplotlib(arguments: argparse.Namespace) -> None:
    """Say that it is missing before the figures are reckoned, which may take minutes.

    Raises:
        ValueError: a page is asked for, and there is nothing to draw it with.
    """
    if arguments.report is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--report draws with matplotlib, which is not here ({error}): pip install 'synctva-ros[train]', or leave "
            "it out; all figures are printed, and --json writes them"
        ) from error
