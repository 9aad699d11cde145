"""What a person sees of ``/emotion`` in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from synctva_ros.config import Dialogue

BAR = 28  # characters of a bar for probability 1
FILE = 36  # characters of a file's name
COLOURS = {
    "neutral": "white",
    "joy": "yellow",
    "sadness": "blue",
    "anger": "red",
    "surprise": "cyan",
    "fear": "magenta",
    "disgust": "green",
}
MODALITIES = ("words", "voice", "face")
EIGHTHS = " ▏▎▍▌▋▊▉█"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Tell the caller; rich itself would end the thread that prints."""
        raise BrokenPipeError


def open_console(*, stderr: bool = False) -> Console:
    """Where people read; raises ``BrokenPipeError`` when they have gone."""
    return _Console(stderr=stderr, highlight=False)


def bar(share: float) -> str:
    """A bar for a share in [0, 1], fine to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR * 8)
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def show(console: Console, emotion: dict[str, Any]) -> None:
    """Print one message (as of ``emotion_to_dict``): who, words, a bar per class, modalities, latency."""
    who = emotion["speaker_id"] or emotion["person_id"] or "someone"
    heading = Text.assemble(
        (f"{emotion['dialogue_id']} turn {emotion['turn']}", "bold"),
        f"  {who}  {emotion['stream_start']:.1f} to {emotion['stream_end']:.1f} s  ",
        (emotion["status"], "bold red" if emotion["status"] == "UNCERTAIN" else "dim"),
    )
    console.print(heading)
    if emotion["text"]:
        console.print(Text(f"  “{emotion['text']}”", style="italic"))
    else:
        console.print("  (no words)", style="dim")
    table = Table.grid(padding=(0, 1))
    for label, probability in zip(emotion["labels"], emotion["probabilities"], strict=True):
        top = label == emotion["label"] and emotion["status"] != "UNCERTAIN"
        colour = COLOURS.get(label, "white")
        table.add_row(
            "  " + ("▶" if top else " "),
            Text(label, style=f"bold {colour}" if top else colour),
            Text(bar(probability), style=colour),
            Text(f"{probability:4.0%}", style="bold" if top else "dim"),
        )
    console.print(table)
    durations = dict(zip(emotion["stages"], emotion["durations"], strict=True))
    latency = f"answer {durations['total']:.2f} s after the last word" if durations.get("total", -1) >= 0 else ""
    console.print(f"    {' · '.join(part for part in (_grounds(emotion), latency) if part)}\n", style="dim")


def provisional_line(emotion: dict[str, Any]) -> Text:
    """Who is still speaking, and what it sounds and looks like so far, for a line that is soon replaced."""
    seconds = emotion["stream_end"] - emotion["stream_start"]
    return Text.assemble(
        (f"  speaking for {seconds:.1f} s  ", "dim"),
        (
            emotion["label"] + ("?" if emotion["confidence"] < Dialogue.uncertain_below else ""),
            COLOURS.get(emotion["label"], "white"),
        ),
        f" {emotion['confidence']:.0%}  ",
        (_grounds(emotion), "dim"),
    )


def show_line(console: Console, emotion: dict[str, Any]) -> None:
    """Print an estimate of a file (as of ``Recognizer``) on one line: where, what, how sure, on what grounds, words."""
    uncertain = emotion["status"] == "UNCERTAIN"
    colour = COLOURS.get(emotion["label"], "white")
    line = Text.assemble(
        (f"{shortened(emotion['file'], FILE):{FILE}} ", "bold"),
        (f"{emotion['stream_start']:5.1f} to {emotion['stream_end']:5.1f} s  ", "dim"),
        (f"{emotion['label'] + ('?' if uncertain else ''):9} ", "dim" if uncertain else f"bold {colour}"),
        f"{emotion['confidence']:4.0%} ",
        (f"{bar(emotion['confidence'] / 2):{BAR // 2}} ", colour),
        (_grounds(emotion), "dim"),
    )
    if emotion["text"]:
        line.append(f"  “{emotion['text']}”", "italic")
    console.print(line, soft_wrap=True)


def shortened(name: str, length: int) -> str:
    """The end of a path, which says most, in ``length`` characters at the most."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _grounds(emotion: dict[str, Any]) -> str:
    used = ", ".join(
        f"{name} {share:.0%}"
        for bit, name, share in zip((1, 2, 4), MODALITIES, emotion["contributions"], strict=True)
        if emotion["modalities"] & bit
    )
    return used or "nothing to go by"
