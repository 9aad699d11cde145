"""This checkout against another one, in one run: the same benchmark in both, in turn, and the ratio of each figure.

    python benchmark/against.py --other DIR footprint.py --seconds 10
    python benchmark/against.py --other DIR --rounds 5 latency.py
    python benchmark/against.py --other DIR rolling.py

Both checkouts have the package installed in their ``.venv`` (``make test`` or ``make lint`` does that). A figure is the
median over the rounds; rows are matched by the texts in them. The benchmarks must know ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parents[1]
#: Words that have changed between versions, so that the rows are still matched.
SYNONYMS = {"pictures": "images", "whole talk": "whole dialogue"}

#: What the start of Python sets for ROS from PyPI.
ROS_WHEELS = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
#: Numbers that say what a row is of.
LABELS = ("count", "speculate")


def run(checkout: Path, script: str, options: list[str], file: Path) -> list[dict[str, Any]]:
    """The rows of a benchmark of a checkout."""
    command = [str(checkout / ".venv/bin/python"), str(checkout / "benchmark" / script), *options, "--json", str(file)]
    # The ROS wheels name their libraries' folder here, which would be this checkout's for the other one, too.
    environment = {name: value for name, value in os.environ.items() if name not in ROS_WHEELS}
    subprocess.run(command, check=True, cwd=checkout, stdout=subprocess.DEVNULL, env=environment)
    written: Any = json.loads(file.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = written["rows"] if isinstance(written, dict) else written
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Each number by its row, named by the texts in it, and its column."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        name = ", ".join(str(value) for key, value in row.items() if isinstance(value, str) or key in LABELS)
        for column, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and column not in LABELS:
                found[common(name), common(column)] = float(value)
    return found


def common(text: str) -> str:
    """A text with the words of today."""
    for old, new in SYNONYMS.items():
        text = text.replace(old, new)
    return text


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Run a benchmark in this checkout and in another, and compare.")
    parser.add_argument("--other", type=Path, required=True, metavar="DIR", help="the other checkout")
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs (default: 3)")
    parser.add_argument("script", help="name of a file in benchmark/")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its options")
    arguments = parser.parse_args()
    seen: dict[str, list[dict[tuple[str, str], float]]] = {"other": [], "here": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for name, checkout in (("other", arguments.other.resolve()), ("here", HERE)):
                print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr, flush=True)
                rows = run(checkout, arguments.script, arguments.options, Path(folder, "rows.json"))
                seen[name].append(figures(rows))
    print(f"{'':<60} {'figure':<24} {'other':>10} {'here':>10} {'here/other':>10}")
    for key in seen["here"][0]:
        if all(key in each for rounds in seen.values() for each in rounds):
            other, here = (median(each[key] for each in seen[name]) for name in ("other", "here"))
            ratio = f"{here / other:10.3f}" if other else f"{'-':>10}"
            print(f"{key[0]:<60} {key[1]:<24} {other:>10.2f} {here:>10.2f} {ratio}")


if __name__ == "__main__":
    main()
