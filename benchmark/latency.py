"""How long a person waits: from the true end of speech to the FINAL message on /emotion.

    python benchmark/latency.py [--repeats 5] [--whisper demo tiny.en] [--processes one each] [--camera] [--json FILE]

The demo's dialogue, whose ends of speech are known to the sample, is played in real time through the running nodes over
DDS, each time from a fresh start, with and without work inside the pause (``utterance.speculate``). What arrives is
timed in another process. Times are in milliseconds; machines are noisy, so what counts are the ratios in one run.

``tiny.en`` is a Whisper of that model's size with random weights that says twelve words (``benchmark/tiny_en.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from encoders import photograph
from running import Observer, Settings, in_a_process_each, in_one_process
from spoken import Speech, Turn, spoken

from synctva_ros.config import DEMO_WHISPER

NODES = ["emotion", "features", "faces", "transcriber", "utterance", "media"]
#: The default of the node ``utterance`` [s].
HANGOVER = 0.5
#: An end of speech that is further off is that of something else [s].
SAME = 0.3


@dataclass(frozen=True)
class Answer:
    """A turn's final message: when it came after the true end of speech, and what the message says of itself [s]."""

    after_end: float
    after_confirmed: float
    text_is_right: bool
    label: str
    probabilities: list[float]
    stages: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One run: milliseconds, but for the counts and ratios."""

    whisper: str
    processes: str
    speculate: bool
    turns: int
    answered: int
    text_right: int
    provisional: int
    end_to_final_p50: float
    end_to_final_p95: float
    end_to_final_max: float
    beyond_hangover_p50: float
    confirmed_to_final_p50: float
    confirmed_to_final_p95: float
    first_over_median: float
    stages_p50: dict[str, float]


class Listener(Observer):
    """Notes when which message came."""

    def __init__(self) -> None:
        from synctva_ros import msg
        from synctva_ros.ros.node import QOS_RESULT

        super().__init__()
        self.final: list[tuple[int, Any]] = []
        self.provisional = 0
        self.node.create_subscription(msg.Emotion, "emotion", self._hear, QOS_RESULT)

    def _hear(self, message: Any) -> None:
        now = time.time_ns()
        if message.status == message.PROVISIONAL:
            self.provisional += 1
        else:
            self.final.append((now, message))


def answers(heard: list[tuple[int, Any]], turns: list[Turn]) -> list[Answer | None]:
    """The answer to each turn, None where there was none."""
    from synctva_ros.ros.convert import from_time

    found: list[Answer | None] = []
    for turn in turns:
        near = [(came, message) for came, message in heard if abs(message.stream_end - turn.end) <= SAME]
        if not near:
            found.append(None)
            continue
        came, message = near[0]
        end = from_time(message.header.stamp)
        stages = dict(zip(message.stages, map(float, message.durations), strict=True))
        found.append(
            Answer(
                after_end=(came - end) / 1e9 + message.stream_end - turn.end,
                after_confirmed=(came - end) / 1e9 - stages["turns"],
                text_is_right=message.text == turn.text,
                label=message.label,
                probabilities=[float(share) for share in message.probabilities],
                stages=stages,
            )
        )
    return found


def summary(whisper: str, processes: str, speculate: bool, given: list[Answer | None], provisional: int) -> Row:
    """The figures of a run."""
    there = [answer for answer in given if answer is not None]
    if not there:
        sys.exit("no utterance was answered; the log above says why")
    after_end = 1000 * np.array([answer.after_end for answer in there])
    after_confirmed = 1000 * np.array([answer.after_confirmed for answer in there])
    names = dict.fromkeys(name for answer in there for name in answer.stages)
    return Row(
        whisper=whisper,
        processes=processes,
        speculate=speculate,
        turns=len(given),
        answered=len(there),
        text_right=sum(answer.text_is_right for answer in there),
        provisional=provisional,
        end_to_final_p50=round(float(np.percentile(after_end, 50)), 1),
        end_to_final_p95=round(float(np.percentile(after_end, 95)), 1),
        end_to_final_max=round(float(after_end.max()), 1),
        beyond_hangover_p50=round(float(np.percentile(after_end, 50)) - 1000 * HANGOVER, 1),
        confirmed_to_final_p50=round(float(np.percentile(after_confirmed, 50)), 1),
        confirmed_to_final_p95=round(float(np.percentile(after_confirmed, 95)), 1),
        first_over_median=round(float(after_end[0] / np.median(after_end[1:])), 3) if len(there) > 1 else float("nan"),
        stages_p50={
            name: round(1000 * float(np.median([answer.stages.get(name, 0.0) for answer in there])), 1)
            for name in names
        },
    )


def play(
    listener: Listener, file: Path, speech: Speech, model: str, processes: str, speculate: bool, face: Path | None
) -> tuple[list[Answer | None], int]:
    """Play the speech to freshly started nodes, with a camera that shows a face or without.

    Returns:
        The answers, and how many provisional ones there were.
    """
    settings: Settings = {
        "transcriber": {"model": model},
        "faces": {"vision": face is not None},
        "camera": {"device": str(face)},
        "utterance": {"speculate": speculate},
        "media": {"file": str(file)},
    }
    nodes = NODES if face is None else [*NODES[:-1], "camera", "media"]
    listener.final.clear()
    listener.provisional = 0
    with ExitStack() as stack:
        if processes == "one":
            in_one_process(stack, nodes, settings)
        else:
            in_a_process_each(stack, listener, nodes, settings)
        deadline = time.monotonic() + speech.seconds + 60.0
        while len(listener.final) < len(speech.turns) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # a message too many would come now
    return answers(listener.final, speech.turns), listener.provisional


def show(row: Row) -> None:
    """Print a row."""
    print(
        f"{row.whisper:<8} {row.processes:<5} {'in the pause' if row.speculate else 'after it':<13}"
        f"{row.end_to_final_p50:>7.0f} {row.end_to_final_p95:>6.0f} {row.end_to_final_max:>6.0f}"
        f"{row.beyond_hangover_p50:>9.1f}{row.confirmed_to_final_p50:>9.1f} {row.confirmed_to_final_p95:>6.1f}"
        f"{row.first_over_median:>8.2f}   {row.answered}/{row.turns}, words {row.text_right}, "
        f"provisional {row.provisional}",
        flush=True,
    )
    print("    " + ", ".join(f"{name} {took:g}" for name, took in row.stages_p50.items()), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time the running graph from the true end of speech.")
    parser.add_argument("--repeats", type=int, default=5, help="of the dialogue of 12 turns (default: 5)")
    parser.add_argument("--whisper", nargs="+", choices=("demo", "tiny.en"), default=["demo", "tiny.en"])
    parser.add_argument("--processes", nargs="+", choices=("one", "each"), default=["one", "each"])
    parser.add_argument("--camera", action="store_true", help="also show a face, 10 images a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    arguments = parser.parse_args()
    listener = Listener()
    speech = spoken(arguments.repeats)
    rows: list[Row] = []
    ratios: list[str] = []
    print(f"{'':<27}{'end of speech to FINAL':>21}{'beyond':>9}{'confirmed':>9}{'first':>13}")
    print(f"{'whisper  nodes work':<27}{'p50':>7} {'p95':>6} {'max':>6}{'p50':>9}{'p50':>9} {'p95':>6}{'/median':>8}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        speech.write_wav(file)
        face = None
        if arguments.camera:
            face = Path(folder) / "face.png"
            cv2.imwrite(str(face), photograph())
        for whisper in arguments.whisper:
            model = str(DEMO_WHISPER)
            if whisper == "tiny.en":
                sys.path.append(str(Path(__file__).parents[1] / "tools"))  # the recogniser's making is not installed
                from tiny_en import write_tiny_en

                model = str(Path(folder) / "tiny_en")
                write_tiny_en(Path(model))
            for processes in arguments.processes:
                given = {}
                for speculate in (False, True):
                    given[speculate], provisional = play(listener, file, speech, model, processes, speculate, face)
                    rows.append(summary(whisper, processes, speculate, given[speculate], provisional))
                    show(rows[-1])
                plain, ahead = rows[-2:]
                same = [(a, b) for a, b in zip(*given.values(), strict=True) if a and b]
                ratios.append(
                    f"{whisper}, nodes in {processes} process: beyond the hang-over, after / in the pause "
                    f"{plain.beyond_hangover_p50 / ahead.beyond_hangover_p50:.1f}; the same label in "
                    f"{sum(a.label == b.label for a, b in same)} of {len(same)}"
                )
    print("\n".join(["", *ratios]))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    main()
