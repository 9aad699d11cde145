"""What the running graph costs: processor time and memory of each node, of each thread and of the whole.

    python benchmark/footprint.py [--seconds 20] [--json FILE]

The nodes utterance, transcriber, features and emotion run in one process (as ``synctva run`` does) and then in a
process each. Another process, which is not counted, sends them silence or the demo's dialogue in real time, and no
images or images of 640 by 480 pixels with a face. CPU is processor time, user and system, in percent of one core.
Machines are noisy, so it is also given as a multiple of what a bare subscriber to the same sound took at the same time:
a process of its own that does nothing but receive the chunks with rclpy's plainest executor. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from encoders import photograph
from numpy.typing import NDArray
from running import SPAWN, Observer, OneProcess, Settings, in_a_process_each, in_one_process
from spoken import spoken

from synctva_ros.config import DEMO_WHISPER

NODES = ["emotion", "features", "faces", "transcriber", "utterance"]  # who listens first
SETTINGS: Settings = {"transcriber": {"model": str(DEMO_WHISPER)}}
RATE, CHUNK = 16_000, 480
#: Images per second (0 is a graph without camera), and whether the face in them moves.
IMAGE_RATES = ((0, False), (10, False), (10, True), (30, False))
#: Discovery, and pages and caches that are touched for the first time, are over by then [s].
SETTLE = 4.0
#: What the whole graph in one process may take: percent of one core in silence without camera and with ten images a
#: second, and megabytes.
BARS = {"silence, no camera": 15.0, "silence, 10 images/s": 80.0, "memory": 1500.0}
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Processor time of a process [s] since it began, and of each of its threads by their kernel ids."""

    cpu: float
    threads: dict[int, float]


@dataclass(frozen=True)
class Row:
    """One process or, as ``whole``, all of an arrangement under one load."""

    arrangement: str
    load: str
    process: str
    cpu_percent: float
    baselines: float
    resident_mb: float
    proportional_mb: float
    threads_percent: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    utterances: int = 0


# --- what is read from the kernel


def cpu_of(stat: str) -> float:
    """User and system time [s] in a line of ``/proc/*/stat``; the name before may hold blanks and brackets."""
    values = stat.rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / TICK


def usage(pid: int) -> Usage:
    """Processor time that a process has taken so far."""
    threads = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            threads[int(task.name)] = cpu_of((task / "stat").read_text())
    return Usage(cpu_of(Path(f"/proc/{pid}/stat").read_text()), threads)


def memory(pid: int) -> tuple[float, float]:
    """Resident megabytes, and those with what is shared between processes divided among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return values["Rss"] / 1024, values["Pss"] / 1024


# --- processes


def drive(speech: bool, image_rate: float, moves: bool) -> None:
    """Microphone and camera: publish in real time until terminated."""
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    from synctva_ros import msg
    from synctva_ros.events import AudioChunk
    from synctva_ros.events import Image as CameraImage
    from synctva_ros.ros.convert import image_to_msg, to_msg, to_time
    from synctva_ros.ros.node import QOS_AUDIO_OUT, QOS_IMAGE_OUT
    from synctva_ros.sources import new_stream_id

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # so that it ends when it is terminated
    node = Node("driver")
    audio = node.create_publisher(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
    camera = node.create_publisher(Image, "image", QOS_IMAGE_OUT)
    if speech:
        sound = spoken(1).samples[:, None]
    else:  # a quiet room: a microphone is never all zeros
        sound = np.random.default_rng(0).normal(0, 1e-4, (10 * RATE, 1)).astype(np.float32)
    sound = sound[: len(sound) // CHUNK * CHUNK].reshape(-1, CHUNK, 1)
    images = [image_to_msg(CameraImage(0, shown, "camera")) for shown in (moving() if moves else [photograph()])]
    stream, length = new_stream_id("b"), CHUNK / RATE
    origin, begun = time.time_ns(), time.monotonic()
    sequence = taken = 0
    while True:
        now = time.monotonic() - begun
        while (sequence + 1) * length <= now:
            stamp = origin + round(sequence * length * 1e9)
            chunk = AudioChunk(stream, sequence, stamp, RATE, sound[sequence % len(sound)], False, "driver")
            audio.publish(to_msg(chunk))
            sequence += 1
        if image_rate and taken / image_rate <= now:
            image = images[taken % len(images)]
            image.header.stamp = to_time(origin + round(taken / image_rate * 1e9))
            camera.publish(image)
            taken += 1
        due = [(sequence + 1) * length] + ([taken / image_rate] if image_rate else [])
        time.sleep(max(0.0, min(due) - (time.monotonic() - begun)))


def moving() -> list[NDArray[np.uint8]]:
    """Five seconds of a face that sways, with the noise of a camera, at ten frames a second."""
    rng, still = np.random.default_rng(0), photograph()
    frames = []
    for number in range(50):
        shift = round(12 * np.sin(2 * np.pi * number / 25)), round(4 * np.sin(2 * np.pi * number / 10))
        noisy = np.roll(still, shift, axis=(1, 0)) + rng.normal(0, 3, still.shape)
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return frames


def listen() -> None:
    """Receive the sound and do nothing with it: the baseline."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from synctva_ros import msg
    from synctva_ros.ros.node import QOS_AUDIO_IN

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # so that it ends when it is terminated
    node = Node("baseline")
    node.create_subscription(msg.AudioChunk, "audio", lambda message: None, QOS_AUDIO_IN)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin()


class Listener(Observer):
    """Counts the graph's answers."""

    def __init__(self) -> None:
        from synctva_ros import msg
        from synctva_ros.ros.node import QOS_RESULT

        super().__init__()
        self.counts: Counter[str] = Counter()
        self.node.create_subscription(msg.Emotion, "emotion", self._hear, QOS_RESULT)
        self.node.create_subscription(msg.Faces, "faces", self._see, QOS_RESULT)

    def _see(self, message: Any) -> None:
        self.counts.update(["images"] * message.looked_at)

    def _hear(self, message: Any) -> None:
        self.counts.update(["provisional" if message.status == message.PROVISIONAL else "emotion"])


# --- measuring


def measure(
    arrangement: str, pids: dict[str, int], baseline: int, observer: Listener, seconds: float, graph: OneProcess | None
) -> list[Row]:
    """Rows of one arrangement under all loads."""
    rows: list[Row] = []
    for speech in (False, True):
        for image_rate, moves in IMAGE_RATES:
            load = f"{'speech' if speech else 'silence'}, "
            load += f"{image_rate} images/s" if image_rate else "no camera"
            load += ", moving" * moves
            driver = SPAWN.Process(target=drive, args=(speech, image_rate, moves), daemon=True)
            driver.start()
            time.sleep(2 * SETTLE if not rows else SETTLE)
            counts, begun = observer.counts.copy(), time.monotonic()
            before = {name: usage(pid) for name, pid in {**pids, "baseline": baseline}.items()}
            time.sleep(seconds)
            after = {name: usage(pid) for name, pid in {**pids, "baseline": baseline}.items()}
            passed = time.monotonic() - begun
            counts = observer.counts - counts
            names = {} if graph is None else graph.threads()
            driver.terminate()
            driver.join()
            bare = after["baseline"].cpu - before["baseline"].cpu
            made = []
            for name, pid in pids.items():
                took = after[name].cpu - before[name].cpu
                resident, proportional = memory(pid)
                made.append(
                    Row(
                        arrangement,
                        load,
                        name,
                        round(100 * took / passed, 1),
                        round(took / max(bare, 1 / TICK), 1),
                        round(resident),
                        round(proportional),
                        {} if graph is None else per_thread(pid, names, before[name], after[name], passed),
                        round(counts["images"] / passed, 1),
                        counts["emotion"],
                    )
                )
            if len(made) > 1:
                made.append(whole(made))
            for row in made:
                show(row)
            rows += made
    return rows


def per_thread(pid: int, names: dict[int, str], before: Usage, after: Usage, passed: float) -> dict[str, float]:
    """Percent of a core by the thread's name, the most expensive first; threads of libraries have the kernel's name."""
    found: defaultdict[str, float] = defaultdict(float)
    for thread, cpu in after.threads.items():
        name = names.get(thread, "")
        if not name:
            with suppress(FileNotFoundError):
                name = Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
        found[name or "ended"] += cpu - before.threads.get(thread, 0.0)
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {name: round(100 * cpu / passed, 1) for name, cpu in ordered if cpu > 0}


def whole(rows: list[Row]) -> Row:
    """All processes of an arrangement together; memory that they share counts once."""
    first = rows[0]
    proportional = sum(row.proportional_mb for row in rows)
    return Row(
        first.arrangement,
        first.load,
        "whole",
        round(sum(row.cpu_percent for row in rows), 1),
        round(sum(row.baselines for row in rows), 1),
        proportional,
        proportional,
        {},
        first.images_per_second,
        first.utterances,
    )


def show(row: Row) -> None:
    """Print a row."""
    seen = f"{row.images_per_second:>5.1f} images/s {row.utterances:>3} utterances"
    print(
        f"{row.arrangement:<12} {row.load:<23} {row.process:<12} {row.cpu_percent:>6.1f} % {row.baselines:>6.1f} x "
        f"{row.resident_mb:>6.0f} MB {row.proportional_mb:>6.0f} MB  {seen}",
        flush=True,
    )
    if row.threads_percent:
        print("    " + ", ".join(f"{name} {percent:g}" for name, percent in row.threads_percent.items()), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure processor time and memory of the running graph.")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # the ROS wheels do not set it
    observer = Listener()
    listener = SPAWN.Process(target=listen, daemon=True)
    listener.start()
    assert listener.pid is not None
    print(f"{'':<49} {'CPU':>8} {'bare':>8} {'resident':>9} {'with share':>10}")
    rows: list[Row] = []
    common: dict[str, Any] = {"baseline": listener.pid, "seconds": arguments.seconds}
    with ExitStack() as stack:
        graph = in_one_process(stack, NODES, SETTINGS)
        rows += measure("one process", {"whole": graph.pid}, observer=observer, graph=graph, **common)
    with ExitStack() as stack:
        pids = in_a_process_each(stack, observer, NODES, SETTINGS)
        rows += measure("each its own", pids, observer=observer, graph=None, **common)
    print()
    value: float
    together = {row.load: row for row in rows if row.arrangement == "one process"}
    for what, bar in BARS.items():
        if what == "memory":
            value, unit = max(row.resident_mb for row in together.values()), "MB"
        else:
            value, unit = together[what].cpu_percent, "%"
        print(f"{what}: {value:g} {unit}, {'within' if value <= bar else 'ABOVE'} the bar of {bar:g} {unit}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    listener.terminate()


if __name__ == "__main__":
    main()
