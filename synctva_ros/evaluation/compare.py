"""Whether two runs differ: the same utterances, said by both, drawn anew together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.evaluation.metrics import (
    INTERVAL,
    MEASURES,
    DoubleArray,
    Scores,
    interval,
    p_value,
    redraw,
)
from synctva_ros.evaluation.predictions import Predictions, read_predictions
from synctva_ros.plural import counted
from synctva_ros.sources.files import shown

#: More than for an interval: a p value is counted from the few draws on the other side of zero.
DRAWS = 10_000
#: What the sentence is about. One figure, named before anything is seen: of many, one is always clear by chance.
MAIN = "weighted_f1"


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare two files that ``evaluate --json`` or ``score --json`` wrote.

    Returns:
        What ``difference`` returns, and ``a`` and ``b`` (the files) and ``sentence``, which says it in words.

    Raises:
        ValueError: a file cannot be read, or they are not about the same items.
    """
    first, second = read_predictions(one), read_predictions(other)
    _check(shown(one), first, shown(other), second)
    silence = first.silent or second.silent
    found = difference(list(first.scores(silence).values()), list(second.scores(silence).values()))
    if silence:  # no answer has no confidence
        for measure in ("ece", "log_loss"):
            del found["measures"][measure]
    names = {"a": shown(one), "b": shown(other)}
    return names | found | {"sentence": in_words(found, **names)}


def difference(one: Sequence[Scores], other: Sequence[Scores]) -> dict[str, Any]:
    """How two runs differ, each of one or several seeds, on the same utterances.

    The groups are drawn with replacement, the same ones for both runs (the paired bootstrap). The figure of a run is
    the mean over its seeds; these are drawn anew as well, each run's for itself, for other seeds would have given other
    figures. Seeds are not paired: that of one run has nothing to do with the same number in the other.

    Returns:
        A dictionary, ready for JSON::

            {
              "measures": {"accuracy": {"a": 0.61, "b": 0.60, "difference": 0.01, "interval": [-0.01, 0.03], "p": 0.2},
                           ...},                                 interval and p are None with one group
              "n": 1109, "groups": {"unit": "dialogue", "n": 114}, "seeds": [5, 5]
            }

    Raises:
        ValueError: they were not scored on the same utterances.
    """
    groups, rng = one[0].items.n_groups, np.random.default_rng(1)
    drawn = redraw([*one, *other], DRAWS) if groups > 1 else {}
    measures: dict[str, dict[str, Any]] = {}
    for name in MEASURES:
        a, b = (float(np.mean([getattr(scores, name) for scores in run])) for run in (one, other))
        measures[name] = {"a": a, "b": b, "difference": a - b, "interval": None, "p": None}
        if drawn:
            draws = _over_seeds(drawn[name][: len(one)], rng) - _over_seeds(drawn[name][len(one) :], rng)
            measures[name] |= {"interval": interval(draws, groups), "p": p_value(draws, groups)}
    return {
        "measures": measures,
        "n": one[0].n,
        "groups": {"unit": one[0].items.unit, "n": groups},
        "seeds": [len(one), len(other)],
    }


def _over_seeds(draws: DoubleArray, rng: np.random.Generator) -> DoubleArray:
    """The mean over seeds that are drawn anew, ``[seeds, draws]`` → ``[draws]``; of one seed, itself."""
    seeds, count = draws.shape
    mean: DoubleArray = draws.mean(0)
    if seeds == 1:
        return mean
    drawn = np.take_along_axis(draws, rng.integers(seeds, size=(seeds, count)), axis=0).mean(0)
    # Few that are drawn from few are too much alike: with this, they deviate as the sample deviation says.
    widened: DoubleArray = mean + np.sqrt(seeds / (seeds - 1)) * (drawn - mean)
    return widened


def in_words(found: Mapping[str, Any], a: str, b: str) -> str:
    """Whether one of the two runs ``a`` and ``b`` is better, in a sentence or two."""
    figure, measure = found["measures"][MAIN], MEASURES[MAIN]
    bounds, by = figure["interval"], figure["difference"]
    unit = found["groups"]["unit"]
    if bounds is None:
        return f"There is one {unit} only, so nothing can be said of others: compare on more {unit}s."
    if bounds[0] <= 0 <= bounds[1]:
        sentence = (
            f"No difference in {measure.title} can be seen between {a} and {b}: it is {100 * by:+.1f} points "
            f"({_how_sure(bounds, figure['p'])})."
        )
    else:
        better, worse = (a, b) if by > 0 else (b, a)
        outwards = bounds if by > 0 else [-bounds[1], -bounds[0]]
        sentence = (
            f"{better} is better than {worse} by {abs(100 * by):.1f} points of {measure.title} "
            f"({_how_sure(outwards, figure['p'])})."
        )
    if 1 in found["seeds"] and unit == "dialogue":
        sentence += " Where there is one seed, this is about that network: another seed may differ by as much."
    return sentence


def _how_sure(bounds: Sequence[float], p: float) -> str:
    return (
        f"{INTERVAL} {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}, p {p_shown(p) if p < 0.001 else f'= {p_shown(p)}'}"
    )


def p_shown(value: float) -> str:
    """A p value, as far as the draws can tell it."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _check(a: str, first: Predictions, b: str, second: Predictions) -> None:
    """Refuse what is not about the same items.

    Raises:
        ValueError: the sentence says what differs.
    """
    if first.names != second.names:
        raise ValueError(
            f"{a} has the classes {', '.join(first.names)}, {b} has {', '.join(second.names)}: they cannot be compared"
        )
    for name, here, there in ((a, first, second), (b, second, first)):
        known = set(here.items)
        if missing := [item for item in there.items if item not in known]:
            raise ValueError(
                f"{name} lacks {counted(len(missing), 'item')} of the other, such as {missing[0]}: score both on the "
                "same split"
            )
    rows = zip(first.items, first.groups, first.labels, strict=True)
    theirs = zip(second.items, second.groups, second.labels, strict=True)
    for mine, its in zip(rows, theirs, strict=True):
        if mine != its:
            raise ValueError(
                f"{a} and {b} differ in order, label or {first.unit} of {mine[0]}: score both on the same split"
            )


def print_comparison(found: Mapping[str, Any]) -> None:
    """Print what ``compare`` returned for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for letter, seeds in zip("ab", found["seeds"], strict=True):
        several = f" ({counted(seeds, 'seed')})" if max(found["seeds"]) > 1 else ""
        console.print(f"{letter.upper()}: {found[letter]}{several}", soft_wrap=True, markup=False)
    groups = found["groups"]
    console.print(f"{found['n']} items in {counted(groups['n'], groups['unit'])}, which were drawn for the intervals")
    table = Table("", "A", "B", "A - B", INTERVAL, "p")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figure in found["measures"].items():
        measure = MEASURES[name]
        bounds = figure["interval"]
        table.add_row(
            measure.heading,
            measure.number(figure["a"]),
            measure.number(figure["b"]),
            measure.number(figure["difference"], "+"),
            "" if bounds is None else " to ".join(measure.number(bound, "+") for bound in bounds),
            "" if figure["p"] is None else p_shown(figure["p"]),
        )
    console.print(table)
    console.print(found["sentence"], soft_wrap=True, markup=False)
