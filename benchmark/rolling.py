"""What an utterance costs in a dialogue that goes on and on: a table, and JSON if wanted.

    python benchmark/rolling.py [--json FILE] [--device cpu] [--turns 10 100 1000 10000]

With the shipped weights, on one thread, random vectors and two speakers:

- ``RollingDialogue.add`` with so many turns before the utterance, which explains each estimate;
- the same without the explanation: ``synctva_ros.network.incremental.step`` on one line;
- the whole dialogue computed again, with and without its explanation, which computes nine copies of it. At 10 000
  turns it is left out, as it takes many seconds;
- several dialogues whose utterances are taken in one step.

Machines are noisy. Dialogues of different lengths, and different numbers of dialogues, are measured in alternation, and
the ratios are those of the medians of the processor's time, which leaves out the waiting for other programs; with a
GPU, of the time that passed. Whole dialogues are measured on their own, since what runs right after one finds neither
its memory nor its caches as they were: on one machine 18 ms in place of 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synctva_ros.events import NANOSECONDS, Features
from synctva_ros.network.explanation import explain
from synctva_ros.network.incremental import State, Utterances, blank, step
from synctva_ros.network.rolling import LONGEST_CONTEXT, RollingDialogue, add_all
from synctva_ros.network.synctva import DialogueBatch, SyncTVA
from synctva_ros.network.weights import Description, load
from synctva_ros.weights import SHIPPED_WEIGHTS

#: Calls of what is computed step by step, and of whole dialogues, which take longer.
CALLS, WHOLE_CALLS = 200, 7
#: The longest dialogue [turns] that is computed whole.
LONGEST_WHOLE = 1000
TOGETHER = (1, 8, 32)
EACH = "dialogues in one step, for each"
#: An utterance of 2 s comes every 3 s.
EVERY, LASTS = 3, 2


@dataclass(frozen=True)
class Row:
    """A line of the table: medians over the calls, per utterance; ``count`` is of turns or dialogues."""

    name: str
    count: int
    passed_ms: float
    cpu_ms: float
    calls: int


@dataclass(frozen=True)
class Ratio:
    """Between two rows, with the bar that it is held against."""

    name: str
    ratio: float
    bar: str


class Script:
    """An endless dialogue of two people.

    Args:
        description: says which encoders the vectors are said to be from.
        widths: of the vectors.
    """

    def __init__(self, description: Description, widths: tuple[int, int, int]) -> None:
        self._encoders = description.encoders
        self._widths = widths
        self._vectors = np.random.default_rng(0)

    def say(self, number: int) -> Features:
        """Its utterance of this number."""
        text, audio, vision = (self._vectors.standard_normal(width).astype(np.float32) for width in self._widths)
        return Features(
            f"u{number}",
            number * EVERY * NANOSECONDS,
            (number * EVERY + LASTS) * NANOSECONDS,
            text_vector=text,
            audio_vector=audio,
            vision_vector=vision,
            text_encoder=self._encoders["text"],
            audio_encoder=self._encoders["audio"],
            vision_encoder=self._encoders["vision"],
            speaker_id="ab"[number % 2],
        )

    def utterances(self, number: int, device: torch.device) -> Utterances:
        """The same for one line of the network."""
        spoken = self.say(number)
        times = (torch.tensor([time], device=device) for time in (spoken.start, spoken.end, number % 2, 0))
        start, end, speaker, oldest = times
        vectors = (spoken.text_vector, spoken.audio_vector, spoken.vision_vector)
        text, audio, vision = (torch.from_numpy(vector).to(device).unsqueeze(0) for vector in vectors)
        mask = torch.ones(1, 3, dtype=torch.bool, device=device)
        return Utterances(text, audio, vision, mask, start, end, speaker, oldest)

    def whole(self, turns: int, device: torch.device) -> DialogueBatch:
        """The dialogue as far as this."""
        text, audio, vision = (
            torch.from_numpy(self._vectors.standard_normal((turns, width)).astype(np.float32)) for width in self._widths
        )
        start = torch.arange(turns) * float(EVERY)
        return DialogueBatch(
            text=text,
            audio=audio,
            vision=vision,
            mask=torch.ones(turns, 3, dtype=torch.bool),
            start=start,
            end=start + LASTS,
            speaker=torch.arange(turns) % 2,
            dialogue=torch.zeros(turns, dtype=torch.long),
        ).to(device)


def measure(calls: dict[tuple[str, int], Callable[[], Any]], rounds: int, device: torch.device) -> list[Row]:
    """Time the calls in turns, warm."""
    passed: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    cpu: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for number in range(-2, rounds):
        for key, call in calls.items():
            begun_passed, begun = time.perf_counter(), time.process_time()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 0:
                cpu[key].append(time.process_time() - begun)
                passed[key].append(time.perf_counter() - begun_passed)
    return [
        Row(
            name,
            count,
            round(1000 * statistics.median(passed[name, count]), 3),
            round(1000 * statistics.median(cpu[name, count]), 3),
            rounds,
        )
        for name, count in calls
    ]


def adding(model: SyncTVA, description: Description, turns: int, device: torch.device) -> Callable[[], Any]:
    """Add one more utterance after so many."""
    script = Script(description, model.config.widths)
    dialogue = RollingDialogue(model, description, device=device)
    dialogue.warm_up()
    for number in range(turns):
        dialogue.add(script.say(number))
    number = turns

    def add() -> None:
        nonlocal number
        dialogue.add(script.say(number))
        number += 1

    return add


def stepping(model: SyncTVA, description: Description, turns: int, device: torch.device) -> Callable[[], Any]:
    """Step on by one more utterance after so many, on a line without explanation."""
    script = Script(description, model.config.widths)
    state: State = blank(model.config, 1, 2, device=device)
    number = 0

    @torch.inference_mode()
    def go_on() -> None:
        nonlocal state, number
        output, state = step(model, state, script.utterances(number, device))
        model.probabilities(output).cpu()
        number += 1

    for _ in range(turns):
        go_on()
    return go_on


def computing_all(model: SyncTVA, description: Description, turns: int, device: torch.device) -> Callable[[], Any]:
    """Compute so many turns and one more from the first on."""
    batch = Script(description, model.config.widths).whole(turns + 1, device)

    @torch.inference_mode()
    def compute() -> None:
        model.probabilities(model(batch)).cpu()

    return compute


def explaining_all(model: SyncTVA, description: Description, turns: int, device: torch.device) -> Callable[[], Any]:
    """The same with the explanation of the last turn."""
    batch = Script(description, model.config.widths).whole(turns + 1, device)
    return lambda: explain(model, batch, nearest=LONGEST_CONTEXT).probabilities.cpu()


def adding_to_all(model: SyncTVA, description: Description, count: int, device: torch.device) -> Callable[[], Any]:
    """Add an utterance to each of so many dialogues in one step."""
    script = Script(description, model.config.widths)
    dialogues = [RollingDialogue(model, description, device=device) for _ in range(count)]
    dialogues[0].warm_up()
    number = 0

    def add() -> None:
        nonlocal number
        add_all(dialogues, [script.say(number) for _ in dialogues])
        number += 1

    return add


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time an utterance of a long dialogue.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write rows and ratios here")
    parser.add_argument("--device", default="cpu", help="where the network runs (default: cpu)")
    parser.add_argument("--turns", type=int, nargs="+", default=[10, 100, 1000, 10_000], help="lengths of the dialogue")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    model, description = load(SHIPPED_WEIGHTS, device)

    rows: list[Row] = []

    def show(made: list[Row]) -> None:
        for row in made:
            calls = f"{row.count:>8} {row.passed_ms:>10.2f} ms {row.cpu_ms:>10.2f} ms {row.calls:>6}"
            print(f"{row.name:<42} {calls}", flush=True)
        rows.extend(made)

    print(f"{f'one thread, {device}':<42} {'number':>8} {'passed':>13} {'processor':>13} {'calls':>6}")
    show(measure({("add", n): adding(model, description, n, device) for n in arguments.turns}, CALLS, device))
    show(
        measure(
            {("step, no explanation", n): stepping(model, description, n, device) for n in arguments.turns},
            CALLS,
            device,
        )
    )
    for n in arguments.turns:
        if n > LONGEST_WHOLE:
            print(f"{'whole dialogue':<42} {n:>8} {'left out: it takes many seconds':>40}")
            continue
        show(measure({("whole dialogue", n): computing_all(model, description, n, device)}, WHOLE_CALLS, device))
        show(
            measure(
                {("whole dialogue, explained", n): explaining_all(model, description, n, device)}, WHOLE_CALLS, device
            )
        )
    together = {(EACH, n): adding_to_all(model, description, n, device) for n in TOGETHER}
    show(
        [
            replace(row, passed_ms=round(row.passed_ms / row.count, 3), cpu_ms=round(row.cpu_ms / row.count, 3))
            for row in measure(together, CALLS // 4, device)
        ]
    )

    found = {(row.name, row.count): row.cpu_ms if device.type == "cpu" else row.passed_ms for row in rows}
    ratios = []
    for name, over, under, bar in (
        ("add, 10000 turns over 100", ("add", 10_000), ("add", 100), "at most 1.1"),
        (
            "step, 10000 turns over 100",
            ("step, no explanation", 10_000),
            ("step, no explanation", 100),
            "at most 1.1",
        ),
        *(
            (f"whole dialogue over step, {n} turns", ("whole dialogue", n), ("step, no explanation", n), bar)
            for n, bar in ((10, ""), (100, "at least 5"), (1000, ""))
        ),
        *(
            (f"whole dialogue over add, explained, {n} turns", ("whole dialogue, explained", n), ("add", n), bar)
            for n, bar in ((10, ""), (100, "at least 5"), (1000, ""))
        ),
        *((f"1 dialogue over {n} together, each", (EACH, 1), (EACH, n), "") for n in TOGETHER[1:]),
    ):
        if over in found and under in found:
            ratios.append(Ratio(name, round(found[over] / found[under], 3), bar))
    for ratio in ratios:
        print(f"{ratio.name:<46} {ratio.ratio:>8.2f}   {ratio.bar}")
    if arguments.json:
        written = {"device": str(device), "rows": [asdict(r) for r in rows], "ratios": [asdict(r) for r in ratios]}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
