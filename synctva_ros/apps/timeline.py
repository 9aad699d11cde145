"""A plot of the estimates of files over time. It needs matplotlib, which the ``train`` extra brings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synctva_ros.apps.view import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that colour-blind people can tell apart (Okabe and Ito), the same in every plot.
COLOURS = {
    "neutral": "#b8bcc0",
    "joy": "#f0e442",
    "sadness": "#0072b2",
    "anger": "#d55e00",
    "surprise": "#56b4e9",
    "fear": "#cc79a7",
    "disgust": "#009e73",
}
#: For classes of other weights.
OTHER = ("#e69f00", "#7f5539", "#5e548e", "#8ac926", "#ff99c8", "#2b2d42")
INK, FAINT = "#1c2126", "#5b6670"
SUFFIXES = (".png", ".svg")
#: So many of each are readable; the plot says how many more there are.
MAX_CLIPS = 12
MAX_UTTERANCES = 30
MAX_IMAGES = 32
IMAGES_A_ROW = 8
WIDTH = 10.0  # inches
LABEL = 0.085  # share of the width that the label of an utterance takes


def check_timeline(path: Path) -> None:
    """Refuse what ``draw_timeline`` could not write.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the name ends neither in .png nor in .svg, or the folder does not exist.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the timeline: {error}; install it with: pip install 'synctva-ros[train]'") from error
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a timeline is written as {' or '.join(SUFFIXES)}; choose such a name")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; create it first")


def draw_timeline(emotions: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel per clip, and the still images side by side, and write the plot to ``path``.

    A bar stands over the time from start to end of an utterance; its parts are the probabilities of the classes, its
    label the likeliest class. Uncertain ones are hatched.

    Args:
        emotions: as ``Recognizer`` yields them, in the same order.
        path: a .png or .svg file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another ending, or no such folder.
    """
    check_timeline(path)
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    files = [list(found) for _, found in groupby(emotions, key=lambda emotion: emotion["file"])]
    clips = [found for found in files if _end(found)]
    stills = [found[0] for found in files if not _end(found)]
    firsts = range(0, min(len(stills), MAX_IMAGES), IMAGES_A_ROW)
    rows = [stills[first : first + IMAGES_A_ROW] for first in firsts]
    panels = len(clips[:MAX_CLIPS]) + len(rows)
    style = {
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a file may be called "$"
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "hatch.linewidth": 0.8,
        "svg.hashsalt": "synctva",
    }
    with matplotlib.style.context(style, after_reset=True):
        figure = Figure((WIDTH, 0.9 + 1.45 * max(panels, 1)), layout="constrained")
        axes = figure.subplots(max(panels, 1), 1, squeeze=False)[:, 0]
        if not panels:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "There is nothing to show: no utterance was found.", ha="center")
        for panel, clip in zip(axes, clips[:MAX_CLIPS], strict=False):
            _draw_clip(panel, clip)
        for number, row in enumerate(rows):
            _draw_stills(axes[number - len(rows)], row, "" if number else "still images")
        colours = {name: colour for emotion in emotions for name, colour in _colours(emotion["labels"]).items()}
        handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
        if any(emotion["status"] == "UNCERTAIN" for emotion in emotions):
            handles.append(Patch(facecolor="none", edgecolor=INK, hatch="////", label="uncertain"))
        figure.legend(handles=handles, loc="outside upper center", ncols=8, frameon=False, handlelength=1.2)
        hidden = [
            f"{count} more {what}"
            for count, what in ((len(clips) - MAX_CLIPS, "clips"), (len(stills) - MAX_IMAGES, "images"))
            if count > 0
        ]
        if hidden:
            figure.supxlabel(f"not shown: {' and '.join(hidden)}", fontsize=9, color=FAINT)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=150, metadata=metadata)


def _end(emotions: Sequence[dict[str, Any]]) -> float:
    return max(float(emotion["stream_end"]) for emotion in emotions)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    unknown = [name for name in labels if name not in COLOURS]
    return {name: COLOURS.get(name) or OTHER[unknown.index(name) % len(OTHER)] for name in labels}


def _draw_clip(axes: Axes, emotions: Sequence[dict[str, Any]]) -> None:
    shown = emotions[:MAX_UTTERANCES]
    cut = f"  (the first {len(shown)} of {len(emotions)} utterances)" if len(emotions) > len(shown) else ""
    end = 1.01 * _end(shown)
    labelled: list[float] = []  # where the last label of each line above the bars ends [s]
    for emotion in shown:
        start, stop = emotion["stream_start"], emotion["stream_end"]
        _bar(axes, emotion, start, max(stop - start, end / 500))
        middle, half = (start + stop) / 2, LABEL * end / 2
        left = min(max(middle - half, 0.0), end - 2 * half)
        line = next((line for line, taken in enumerate(labelled) if taken <= left), len(labelled))
        labelled[line : line + 1] = [left + 2 * half]
        axes.text(left + half, 1.06 + 0.2 * line, _label(emotion), ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(0, end), ylim=(0, 1.06 + 0.2 * max(len(labelled), 1)))
    axes.xaxis.set_major_formatter("{x:g} s")
    _finish(axes, shortened(emotions[0]["file"], 90) + cut)


def _draw_stills(axes: Axes, emotions: Sequence[dict[str, Any]], title: str) -> None:
    for place, emotion in enumerate(emotions):
        _bar(axes, emotion, place - 0.4, 0.8)
        axes.text(place, 1.06, _label(emotion), ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(-0.5, IMAGES_A_ROW - 0.5), ylim=(0, 1.26))
    axes.set_xticks(range(len(emotions)), [shortened(emotion["file"], 18) for emotion in emotions], fontsize=7)
    _finish(axes, title)


def _bar(axes: Axes, emotion: dict[str, Any], left: float, width: float) -> None:
    bottom = 0.0
    colours = _colours(emotion["labels"])
    for name, share in zip(emotion["labels"], emotion["probabilities"], strict=True):
        axes.bar(left, share, width, bottom, align="edge", color=colours[name], edgecolor="white", linewidth=0.4)
        bottom += share
    if emotion["status"] == "UNCERTAIN":
        axes.bar(left, 1.0, width, align="edge", color="none", edgecolor=INK, hatch="////", linewidth=0.8)


def _label(emotion: dict[str, Any]) -> str:
    return f"{emotion['label']}{'?' if emotion['status'] == 'UNCERTAIN' else ''} {emotion['confidence']:.0%}"


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK, fontweight="bold")
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"], fontsize=8)
    axes.spines["left"].set_bounds(0, 1)
    axes.tick_params(color=FAINT, labelsize=8)
    axes.tick_params(axis="x", labelsize=7.5)
