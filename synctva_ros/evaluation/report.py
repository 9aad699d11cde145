"""A page that shows how well a model does: one HTML file without scripts and links, for people new to it.

The figures are drawn twice, for light and for dark screens, and narrow enough to be read on a phone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from synctva_ros.evaluation.metrics import (
    BINS,
    CHOSEN_HERE,
    CLASS_MEASURES,
    INTERVAL,
    LEVEL,
    MEASURES,
    IntArray,
    Measure,
    Scores,
    reliability,
    summarise,
)
from synctva_ros.events import FloatArray
from synctva_ros.sources.files import writing

CHOSEN_EPOCH = "chosen_epoch"
WIDTH = 4.2  # inches, at which 9 point letters are still 9 pixels high on a phone


@dataclass(frozen=True)
class ReportData:
    """What a report is made of.

    Attributes:
        title: such as "sync-tva on meld valid".
        subtitle: such as "5 seeds, full context".
        names: the C classes in the order of the outputs.
        summary: what ``metrics.summarise`` returns; ``chosen_on_this_split`` beside it is said on the page.
        probabilities: per seed ``[n, C]``.
        labels: the true classes ``[n]``.
        curves: per seed what was measured after each epoch, by name. Names such as "train_loss" and "valid_loss" are
            drawn into one diagram. "chosen_epoch" holds one number, the epoch (counted from 1) whose weights were kept.
            Empty if there was no training, only an evaluation.
        notes: what else the reader should know, a paragraph each.
    """

    title: str
    subtitle: str
    names: tuple[str, ...]
    summary: dict[str, Any]
    probabilities: dict[int, FloatArray]
    labels: IntArray
    curves: dict[int, dict[str, list[float]]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Theme:
    """Colours of the page and its figures.

    Letters in ``ink`` can be read on ``paper`` and on ``cell``, the colour of a matrix cell that holds all of its row.
    """

    ink: str
    paper: str
    line: str
    bar: str
    cell: str
    faint: str
    seeds: tuple[str, ...]


# The seeds' colours are those of Okabe and Ito, which colour-blind people can distinguish, made darker and lighter.
LIGHT = Theme(
    ink="#1c2126",
    paper="#ffffff",
    line="#d5dade",
    bar="#2f6fb0",
    cell="#7db3e8",
    faint="#5b6670",
    seeds=("#0072b2", "#d55e00", "#007f5f", "#b5508f", "#a67c00", "#3d9bd1"),
)
DARK = Theme(
    ink="#e4e8ec",
    paper="#15191d",
    line="#3a4248",
    bar="#6aa9e6",
    cell="#2a66a8",
    faint="#a0abb5",
    seeds=("#4da6e0", "#f08a3c", "#2fc49a", "#dd8fbd", "#e6c34a", "#a9d8f5"),
)


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to ``path``; its folder is created if need be. The same data gives the same bytes.

    Raises:
        ValueError: the parts of ``data`` do not fit each other.
    """
    _check(data)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(data), encoding="utf-8")


def write_scores(
    path: Path,
    scores: Scores,
    probabilities: FloatArray,
    labels: IntArray,
    *,
    title: str,
    subtitle: str,
    names: Sequence[str],
    notes: tuple[str, ...] = (),
) -> None:
    """Write a page of one set of probabilities ``[n, C]``, without training curves."""
    write_report(
        ReportData(title, subtitle, tuple(names), summarise({0: scores}), {0: probabilities}, labels, {}, notes), path
    )


def draw_classes(data: ReportData, theme: Theme) -> Figure:
    """Bars: F1 of each class with its interval, and beside it how many utterances there are."""
    classes = [data.summary["per_class"][name] for name in data.names]
    figure = Figure((WIDTH, 0.8 + 0.34 * len(classes)), layout="constrained")
    quality, support = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    rows = np.arange(len(classes))
    quality.barh(rows, [c["f1"]["mean"] for c in classes], 0.62, color=theme.bar)
    for row, bounds in zip(rows, (c["f1"]["interval"] for c in classes), strict=True):
        if bounds is not None:
            quality.plot(bounds, [row, row], color=theme.ink, linewidth=1.2, marker="|", markersize=5)
    quality.set(xlim=(0, 1), yticks=rows, yticklabels=data.names)
    quality.set_title("F1", fontsize=9, loc="left")
    quality.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    quality.set_xticks([0, 0.5, 1])
    quality.grid(axis="x")
    quality.invert_yaxis()
    bars = support.barh(rows, [c["support"] for c in classes], 0.62, color=theme.faint)
    support.bar_label(bars, padding=2, fontsize=8)
    support.set_title("utterances", fontsize=9, loc="left")
    support.set(xticks=[])
    support.margins(x=0.45)  # room for the numbers
    support.spines["bottom"].set_visible(False)
    support.tick_params(left=False)
    return figure


def draw_confusion(data: ReportData, theme: Theme) -> Figure:
    """True classes against predicted ones: percent of the true class, and utterances of all seeds."""
    counts = np.array(data.summary["confusion"]["sum"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = len(counts)
    side = max(WIDTH, 0.9 + 0.46 * classes)
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, LinearSegmentedColormap.from_list("shares", (theme.paper, theme.cell)), vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        axes.text(column, row - 0.12, f"{100 * shares[row, column]:.0f}", ha="center", va="center")
        axes.text(column, row + 0.26, f"{count}", ha="center", va="center", fontsize=6.5)
    axes.set(xlabel="predicted", ylabel="true", yticks=range(classes), yticklabels=data.names)
    axes.set_xticks(range(classes), data.names, rotation=45, rotation_mode="anchor", ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    edges = np.arange(classes + 1) - 0.5
    axes.vlines(edges, -0.5, classes - 0.5, color=theme.line, linewidth=0.6)
    axes.hlines(edges, -0.5, classes - 0.5, color=theme.line, linewidth=0.6)
    return figure


def draw_reliability(data: ReportData, theme: Theme) -> Figure:
    """Accuracy against confidence, of each seed (thin) and of all together, and how many utterances there are."""
    figure = Figure((WIDTH, 4.8), layout="constrained")
    axes, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, 1))
    axes.plot([0, 1], [0, 1], color=theme.faint, linestyle="--", linewidth=1)
    if len(data.probabilities) > 1:
        for probabilities in data.probabilities.values():
            confidence, accuracy, _ = reliability(probabilities, data.labels, BINS)
            axes.plot(confidence, accuracy, color=theme.bar, linewidth=0.8, alpha=0.45)
    together = np.concatenate(list(data.probabilities.values()))
    confidence, accuracy, share = reliability(together, np.tile(data.labels, len(data.probabilities)), BINS)
    axes.plot(confidence, accuracy, color=theme.bar, linewidth=2)
    sizes = 12 + 160 * share
    axes.scatter(confidence, accuracy, sizes, theme.bar, edgecolor=theme.paper, zorder=3, clip_on=False)
    axes.text(0.03, 0.97, "too modest:\nright more often\nthan it believes", va="top", color=theme.faint, fontsize=8)
    axes.text(0.97, 0.03, "too sure:\nright less often\nthan it believes", ha="right", color=theme.faint, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid()
    shares.bar((np.ceil(confidence * BINS) - 0.5) / BINS, share, 0.9 / BINS, color=theme.faint)
    shares.set(xlabel="confidence", ylabel="utterances")
    shares.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    shares.yaxis.set_major_locator(MaxNLocator(2))
    shares.grid(axis="y")
    return figure


def draw_curves(data: ReportData, theme: Theme) -> Figure:
    """What was measured after each epoch: one diagram for each quantity, one colour for each seed."""
    panels = _panels(data)
    figure = Figure((WIDTH, 0.9 + 1.7 * len(panels)), layout="constrained")
    styles: dict[str, Literal["-", ":"]] = {"train": ":", "valid": "-", "": "-"}
    colours = {seed: theme.seeds[i % len(theme.seeds)] for i, seed in enumerate(data.curves)}
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (quantity, splits) in zip(rows, panels.items(), strict=True):
        for split in splits:
            for seed, curves in data.curves.items():
                values = curves.get(f"{split}_{quantity}" if split else quantity, [])
                epochs = np.arange(1, len(values) + 1)
                axes.plot(epochs, values, styles[split], color=colours[seed], linewidth=1.3)
                if split != "train" and values:
                    chosen = [int(epoch) for epoch in curves.get(CHOSEN_EPOCH, [])]
                    heights = [values[epoch - 1] for epoch in chosen]
                    axes.plot(chosen, heights, "o", markersize=5, color=colours[seed], markeredgecolor=theme.ink)
        axes.set_title(quantity.replace("_", " ").replace("f1", "F1"), fontsize=9, loc="left")
        axes.grid()
    rows[-1].set(xlabel="epoch", xlim=(0, None))
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=colour, label=f"seed {seed}") for seed, colour in colours.items()]
    handles += [
        Line2D([], [], color=theme.ink, linestyle=styles[split], label=split)
        for split in ("train", "valid")
        if any(split in splits for splits in panels.values())
    ]
    if any(CHOSEN_EPOCH in curves for curves in data.curves.values()):
        handles.append(Line2D([], [], color=theme.faint, marker="o", markersize=5, linestyle="", label="chosen epoch"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _panels(data: ReportData) -> dict[str, list[str]]:
    """The quantities in the curves, each with the splits on which it was measured ("" if the name says none)."""
    panels: dict[str, list[str]] = {}
    measured = (name for curves in data.curves.values() for name, values in curves.items() if values)
    for name in dict.fromkeys(measured):
        if name == CHOSEN_EPOCH:
            continue
        split, _, quantity = name.partition("_")
        if split not in ("train", "valid") or not quantity:
            split, quantity = "", name
        panels.setdefault(quantity, []).append(split)
    return panels


def _check(data: ReportData) -> None:
    seeds = {str(seed) for seed in data.probabilities}
    if not seeds or seeds != data.summary["accuracy"]["seeds"].keys():
        raise ValueError(
            f"probabilities of the seeds {sorted(seeds)} for a summary of {sorted(data.summary['accuracy']['seeds'])}: "
            "give those that were summarised"
        )
    if list(data.names) != data.summary["confusion"]["labels"] or data.summary["n"] != len(data.labels):
        raise ValueError(
            f"a summary of {data.summary['n']} utterances of {data.summary['confusion']['labels']} for "
            f"{len(data.labels)} labels of {list(data.names)}: give what was summarised"
        )
    for seed, curves in data.curves.items():
        lengths = {len(values) for name, values in curves.items() if values and name != CHOSEN_EPOCH}
        for epoch in curves.get(CHOSEN_EPOCH, []):
            if not all(1 <= epoch <= length for length in lengths):
                raise ValueError(f"seed {seed} chose epoch {epoch:g} of {min(lengths)}: count from 1")


def _plot(draw: Callable[[ReportData, Theme], Figure], data: ReportData, alt: str) -> str:
    """The figure as HTML, for light and for dark screens."""
    light, dark = (_svg(draw, data, theme) for theme in (LIGHT, DARK))
    return (
        f'<picture><source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(alt)}"></picture>'
    )


def _svg(draw: Callable[[ReportData, Theme], Figure], data: ReportData, theme: Theme) -> str:
    style = {
        "font.size": 9,
        "text.color": theme.ink,
        "text.parse_math": False,  # a class may be called "$"
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.line,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": theme.line,
        "xtick.labelcolor": theme.ink,
        "ytick.color": theme.line,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
        "svg.hashsalt": "synctva",  # without it, and with the date, no two reports were alike
    }
    written = io.BytesIO()
    with matplotlib.style.context(style, after_reset=True):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        draw(data, theme).savefig(written, format="svg", transparent=True, metadata=metadata)
    return f"data:image/svg+xml;base64,{base64.b64encode(written.getvalue()).decode()}"


def _figure(measure: Measure, figure: dict[str, Any], strong: bool = False) -> str:
    """A figure as HTML, with its deviation and its interval below."""
    mean = measure.number(figure["mean"])
    html = f"<strong>{mean}</strong>" if strong else mean
    if figure["std"] is not None:
        html += f" <span>± {measure.number(figure['std'])}</span>"
    return html + (f" <span>{bounds}</span>" if (bounds := measure.bounds(figure["interval"]).strip()) else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML; the first of each row is its heading."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _headline(data: ReportData) -> str:
    several = len(data.probabilities) > 1
    supports = {name: of_class["support"] for name, of_class in data.summary["per_class"].items()}
    commonest = max(supports, key=lambda name: supports[name])
    # What a model scores that always answers with the commonest class: precision is its share, recall is 1.
    share = supports[commonest] / data.summary["n"]
    f1 = 2 * share / (1 + share)
    baseline = {
        "accuracy": share,
        "weighted_f1": share * f1,
        "macro_f1": f1 / sum(support > 0 for support in supports.values()),
        "unweighted_recall": 1 / sum(support > 0 for support in supports.values()),
    }
    rows = [
        (
            f"{_title(measure)}<small>{measure.meaning}</small>",
            _figure(measure, data.summary[name], strong=True),
            measure.number(baseline[name]) if name in baseline else "",
        )
        for name, measure in MEASURES.items()
    ]
    html = f"<p>The last column: what always answering “{escape(commonest)}”, the commonest class, would give.</p>"
    html += _table(("in %", "this model", f"always “{escape(commonest)}”"), rows)
    if several:
        seeds = [
            (seed, *(measure.number(data.summary[name]["seeds"][seed]) for name, measure in MEASURES.items()))
            for seed in data.summary["accuracy"]["seeds"]
        ]
        head = ("seed", *map(_title, MEASURES.values()))
        html += f"<details><summary>Each seed</summary>{_table(head, seeds)}</details>"
    return html


def _classes(data: ReportData) -> str:
    rows = [
        (
            escape(name),
            *(_figure(measure, data.summary["per_class"][name][m]) for m, measure in CLASS_MEASURES.items()),
            str(data.summary["per_class"][name]["support"]),
        )
        for name in data.names
    ]
    return _table(("in %", *map(_title, CLASS_MEASURES.values()), "Utterances"), rows)


def _title(measure: Measure) -> str:
    return measure.title[0].upper() + measure.title[1:]


def _mistakes(data: ReportData) -> str:
    """The three most frequent mistakes, as a list."""
    counts = np.array(data.summary["confusion"]["sum"])
    mistakes = counts * ~np.eye(len(counts), dtype=bool)
    items = []
    for flat in np.argsort(-mistakes, axis=None, kind="stable")[:3]:
        true, predicted = np.unravel_index(flat, mistakes.shape)
        if mistakes[true, predicted]:
            share = mistakes[true, predicted] / counts[true].sum()
            items.append(
                f"<li><b>{escape(data.names[true])}</b> taken for <b>{escape(data.names[predicted])}</b>: "
                f"{100 * share:.0f}&nbsp;% of its utterances</li>"
            )
    return f"<p>The most frequent mistakes:</p><ul>{''.join(items)}</ul>" if items else "<p>There are no mistakes.</p>"


def _page(data: ReportData) -> str:
    seeds = len(data.probabilities)
    names = ", ".join(map(escape, data.names))
    trained = (
        f"It was trained {seeds} times from different random beginnings (seeds). Figures are the mean over the seeds "
        "± their standard deviation."
        if seeds > 1
        else "It was trained once (one seed), so how much of the figures is chance of the training is not known."
    )
    groups = data.summary["groups"]
    drawn = (
        f"These are {groups['n']} {escape(groups['unit'])}s of many: in {100 * LEVEL:.0f} % of all cases the figure "
        f"over all of them lies between the numbers in brackets ({INTERVAL})."
        if groups["n"] > 1
        else f"There is one {escape(groups['unit'])} only, so how much of the figures is its own is not known."
    )
    chosen = f"<p><strong>{CHOSEN_HERE}</strong></p>" if data.summary.get("chosen_on_this_split") else ""
    together = f", all {seeds} seeds together" if seeds > 1 else ""
    curves = (
        "<p>What was measured after each pass over the training data (epoch), dotted on the data it learns from and "
        "solid on data it does not. A loss should be low. Where the dotted loss still falls and the solid one rises, "
        "the model begins to memorise; the weights of the chosen epoch were kept.</p>"
        + _plot(draw_curves, data, "Curves over the epochs of the training, one for each seed")
        if _panels(data)
        else "<p>There is no history of a training: the model was only evaluated.</p>"
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in data.notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(data.title)}</title>
<style>
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
body {{ margin: 0 auto; padding: 1rem; max-width: 36rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }}
h1 {{ margin: 0; font-size: 1.5rem; line-height: 1.25; }}
h2 {{ margin: 2.5rem 0 0.5rem; font-size: 1.15rem; }}
.subtitle, small {{ color: var(--faint); }}
.subtitle {{ margin: 0.25rem 0 1.5rem; }}
small {{ display: block; font-size: 0.8rem; line-height: 1.35; }}
.wide {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.4rem 0 0.4rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-weight: normal; }}
th:first-child {{ padding-left: 0; text-align: left; }}
td {{ white-space: nowrap; }}
td span {{ display: block; font-size: 0.8em; color: var(--faint); }}
thead th {{ color: var(--faint); vertical-align: bottom; }}
details {{ margin-top: 0.75rem; }}
summary {{ cursor: pointer; }}
picture {{ display: block; margin-top: 1rem; }}
img {{ display: block; width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>{escape(data.title)}</h1>
<p class="subtitle">{escape(data.subtitle)}</p>
<p>The model was asked which of {len(data.names)} classes ({names}) each of {data.summary["n"]} utterances belongs to.
{trained} {drawn}</p>
{chosen}
<h2>In short</h2>
{_headline(data)}
<h2>Each class</h2>
<p>Precision: how often the model is right when it names the class. Recall: how many of the utterances of the class it
finds. F1 is high if both are.</p>
{_classes(data)}
{_plot(draw_classes, data, "Bars of the F1 and the number of utterances of each class, as in the table")}
<h2>What is taken for what</h2>
<p>A row holds the utterances of one true class. Large: how many percent of them are predicted as the class of the
column; those on the diagonal are right. Small: the number of these utterances{together}.</p>
{_plot(draw_confusion, data, "Matrix of true and predicted classes")}
{_mistakes(data)}
<h2>How far to trust its confidence</h2>
<p>Of the utterances of which the model is, say, 70&nbsp;% sure, 70&nbsp;% should be right: the dashed line. Below it
the model is too sure, above it too modest. Larger dots and higher bars stand for more utterances; where there are few,
the line jumps by chance.{" The thin lines are the seeds." if seeds > 1 else ""}</p>
{_plot(draw_reliability, data, "Accuracy against confidence, and how frequent each confidence is")}
<h2>The training</h2>
{curves}
{f"<h2>Notes</h2>{notes}" if notes else ""}
</body>
</html>
"""


def _variables(theme: Theme) -> str:
    return " ".join(f"--{name}: {getattr(theme, name)};" for name in ("ink", "paper", "line", "faint"))
