"""How long the encoders take on one thread: a table, and JSON if wanted.

    python benchmark/encoders.py [--json FILE] [--face-detector FILE] [--face-weights NAME]

Machines are noisy, so each row has three figures: the time that passed; the processor's time, which leaves out the
waiting for other programs; and how many times the processor's time of a fixed matrix product that is, which was taken
between the same calls and can be compared between runs and, roughly, between machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

#: Time spent on each row [s], and how many calls it has at least and at most.
SECONDS, LEAST, MOST = 2.0, 5, 50
RATE = 16_000
SENTENCE = "i really did not expect to see you here today"
#: The baseline: this many rows and columns.
SIDE = 512


@dataclass(frozen=True)
class Row:
    """A line of the table: medians over the calls."""

    name: str
    passed_ms: float
    cpu_ms: float
    baselines: float
    calls: int


def measure(name: str, call: Callable[[], Any]) -> Row:
    """Time a call, warm."""
    matrix = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    call()
    passed: list[float] = []
    cpu: list[float] = []
    baseline: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(passed) < LEAST or (len(passed) < MOST and time.perf_counter() < until):
        begun = time.process_time()
        matrix @ matrix
        baseline.append(time.process_time() - begun)
        begun_passed, begun = time.perf_counter(), time.process_time()
        call()
        cpu.append(time.process_time() - begun)
        passed.append(time.perf_counter() - begun_passed)
    median = statistics.median(cpu)
    return Row(
        name,
        round(1000 * statistics.median(passed), 2),
        round(1000 * median, 2),
        round(median / statistics.median(baseline), 2),
        len(cpu),
    )


def words() -> list[Row]:
    """The text encoder on one sentence."""
    from synctva_ros.encoders.text import TextEncoder

    encoder = TextEncoder("text_feelings")
    return [measure("text, one sentence", lambda: encoder.encode([SENTENCE]))]


def voice() -> list[Row]:
    """The audio encoder on noise that comes and goes like syllables."""
    from synctva_ros.encoders.audio import AudioEncoder

    encoder = AudioEncoder()
    rows = []
    for seconds in (1, 3, 10, 30):
        place = np.arange(seconds * RATE) / RATE
        noise = np.random.default_rng(0).normal(0, 0.1, len(place))
        sound = (noise * (1 + np.sin(2 * np.pi * 4 * place)) * np.sin(2 * np.pi * 140 * place)).astype(np.float32)
        rows.append(measure(f"audio, {seconds} s", partial(encoder.encode, sound, RATE)))
    return rows


def face(detector: str, weights: str) -> list[Row]:
    """What is done with an image of 640 by 480 pixels with a face in it, and each part of that."""
    import cv2

    from synctva_ros.encoders.face import FaceEncoder
    from synctva_ros.vision.crop import crop, cut, mouth_opening, quality
    from synctva_ros.vision.detector import HAAR, create_detector
    from synctva_ros.vision.tracks import FaceTracker

    cv2.setNumThreads(1)
    encoder = FaceEncoder(weights)
    frame = photograph()
    empty = np.random.default_rng(0).integers(90, 130, (480, 640, 3), np.uint8)
    rows = []
    for finder in (create_detector(HAAR), create_detector(detector)):
        if not (boxes := finder.detect(frame)):
            raise ValueError(f"{finder.name} finds no face in the benchmark's image")
        tracker, stamps = FaceTracker(finder), count(0, 100_000_000)

        def whole(tracker: FaceTracker = tracker, stamps: Iterator[int] = stamps) -> None:
            encoder.encode([face.crop for face in tracker.observe(next(stamps), frame)])

        rows.append(measure(f"face detection, {finder.name}", partial(finder.detect, frame)))
        rows.append(measure(f"face detection, {finder.name}, no face", partial(finder.detect, empty)))
        rows.append(measure(f"face image, all in, {finder.name}", whole))
        box = boxes[0]
    rows.append(measure("face crop", partial(crop, frame, box)))
    rows.append(measure("face quality, with a crop of its own", partial(quality, frame, box)))
    rows.append(measure("mouth opening", partial(mouth_opening, frame, box)))
    rows.append(measure("crop, quality and mouth opening at once", partial(cut, frame, box)))
    for faces in (1, 2, 16):
        crops = [crop(frame, box)] * faces
        rows.append(measure(f"face network, {faces} at once", partial(encoder.encode, crops)))
    return rows


def photograph() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """BGR ``[480, 640, 3]`` with a face some 150 pixels wide: scikit-image's photograph of an astronaut."""
    import cv2
    from skimage.data import astronaut

    frame = np.full((480, 640, 3), 128, np.uint8)
    frame[:, 80:560] = cv2.resize(astronaut()[0:340, 60:400, ::-1], (480, 480), interpolation=cv2.INTER_LINEAR)
    return frame


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time the encoders on one thread.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--face-detector", default="", metavar="FILE", help="YuNet's file; else the one at hand")
    parser.add_argument("--face-weights", default="face_expression", metavar="NAME", help="a shipped folder, or a path")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    parts: list[Callable[[], list[Row]]] = [
        words,
        voice,
        lambda: face(arguments.face_detector, arguments.face_weights),
    ]
    rows = []
    print(f"{'one thread':<54} {'passed':>9} {'processor':>10} {'baselines':>10}")
    for part in parts:
        try:
            made = part()
        except (ImportError, ValueError) as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for row in made:
            print(f"{row.name:<54} {row.passed_ms:>6.1f} ms {row.cpu_ms:>7.1f} ms {row.baselines:>10.1f}", flush=True)
        rows += made
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
