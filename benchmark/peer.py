"""From the end of speech to its words: RealtimeSTT, and to words and emotion: this package. Same speech, same Whisper.

    python benchmark/peer.py [--repeats 5] [--json FILE] [--peer-python PATH]

RealtimeSTT (https://github.com/KoljaB/RealtimeSTT) is a widely used library for the same first half of the way: voice
activity detection, end-pointing, faster-whisper. Its dependencies have no place in this package, so it gets an
environment of its own, whose interpreter is given with ``--peer-python`` (where there is no GPU, with PyTorch's CPU
build installed beforehand):

    sudo apt-get install -y portaudio19-dev
    python3.11 -m venv peer && peer/bin/pip install "RealtimeSTT[recommended]==1.1.2"
    python benchmark/peer.py --peer-python peer/bin/python

Used with RealtimeSTT 1.1.2, faster-whisper 1.2.1, CTranslate2 4.8.5, silero-vad 6.2.3, ONNX Runtime 1.31.1.

Each candidate hears the demo dialogue in real time in chunks of 30 ms, alone on the machine, one after the other: about
50 s per repeat and candidate. Latency runs from the true end of speech, which the dialogue's ground truth gives, to the
moment the result is in the hands of the program: for RealtimeSTT when ``text()`` returns, for this package when the
message is in the callback of a subscriber, over DDS. The first utterance warms up and is not counted. Results of wrong
words count for the latency, since they came, and not as right.

Whisper is ``whisper_demo`` for all: so small that the table shows what end-pointing and plumbing take, and not Whisper.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from spoken import Speech, Turn, spoken

from synctva_ros import __version__
from synctva_ros.config import DEMO_WHISPER
from synctva_ros.events import Emotion

#: Silence after which an utterance is over, here and (but for its defaults) there [s].
PAUSE = 0.5
#: A result that comes later than this after a turn's end is not of that turn [s].
LATEST = 3.0
#: Utterances at the beginning that are not counted.
WARM_UP = 1
#: Seconds that RealtimeSTT gets to start and to stop.
PATIENCE = 120.0

#: What any use of it here needs: the weights, and no CUDA.
PEER_DEFAULTS: dict[str, Any] = {"model": str(DEMO_WHISPER), "device": "cpu"}
#: Decoding as here, and what its documentation advises for final text that is slow. Batched inference stays on: without
#: it faster-whisper would ask for timestamps, which whisper_demo has never learned.
PEER_TUNED: dict[str, Any] = {**PEER_DEFAULTS, "language": "en", "compute_type": "int8", "beam_size": 1}
PEER = {
    "RealtimeSTT, its defaults": PEER_DEFAULTS,
    "RealtimeSTT, tuned": {
        **PEER_TUNED,
        "post_speech_silence_duration": PAUSE,
        "early_transcription_on_silence": 0.1,  # compared with seconds, though a part of its documentation says ms
    },
    # Otherwise its pause begins only when silence has been confirmed for 0.16 s; so the whole of it is as long as ours.
    # Silero hears the end sooner than webrtcvad, and a pre-roll as ours makes less sound for Whisper.
    "RealtimeSTT, tuned, whole pause as ours": {
        **PEER_TUNED,
        "post_speech_silence_duration": PAUSE,
        "deactivity_silence_confirmation_duration": 0.0,
        "early_transcription_on_silence": 0.1,
        "silero_deactivity_detection": True,
        "pre_recording_buffer_duration": 0.3,
    },
}
#: Parameters of the nodes that are not as installed: the same pause and decoding as there, and no images.
OURS: dict[str, dict[str, Any]] = {
    "media": {"realtime": True, "video_rate": 0.0},
    "utterance": {"hangover": PAUSE},
    "transcriber": {
        "model": str(DEMO_WHISPER),
        "device": "cpu",
        "compute_type": "int8",
        "language": "en",
        "beam_size": 1,
    },
    "features": {},
    "faces": {"vision": False},
    "emotion": {"device": "cpu"},
}


class BenchmarkError(RuntimeError):
    """A candidate cannot be measured; the message says why."""


class Result(NamedTuple):
    """Words, and when they came, in seconds after the first sample was heard."""

    at: float
    text: str


@dataclass(frozen=True)
class Row:
    """A line of the table: counts of utterances, and times from the true end of speech in milliseconds."""

    name: str
    utterances: int
    right: int
    wrong: int
    missed: int
    extra: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    parameters: dict[str, Any]
    latencies_ms: list[float] = field(repr=False)


def same(said: str, understood: str) -> bool:
    """Whether two texts have the same words."""
    return re.findall(r"[\w']+", said.casefold()) == re.findall(r"[\w']+", understood.casefold())


def match(results: list[Result], turns: list[Turn]) -> tuple[list[Result | None], int]:
    """Find each turn's result, and count those of no turn.

    Results with a turn's words come first; what is left goes to the last turn before it that has none yet. Neither may
    come before the turn's end, or more than ``LATEST`` after it.
    """
    found: list[Result | None] = [None] * len(turns)

    def place(result: Result, any_words: bool) -> bool:
        for index in reversed(range(len(turns))):
            turn = turns[index]
            in_time = 0.0 <= result.at - turn.end <= LATEST
            if found[index] is None and in_time and (any_words or same(turn.text, result.text)):
                found[index] = result
                return True
        return False

    others = [result for result in results if not place(result, any_words=False)]
    return found, sum(not place(result, any_words=True) for result in others)


def score(name: str, results: list[Result], turns: list[Turn], parameters: dict[str, Any]) -> Row:
    """Compare results with what was said.

    Raises:
        BenchmarkError: there is no result at all.

    """
    found, extra = match(results, turns)
    pairs = list(zip(turns, found, strict=True))[WARM_UP:]
    came = [(turn, result) for turn, result in pairs if result is not None]
    if not came:
        raise BenchmarkError(f"{name}: no result came for any of {len(pairs)} utterances")
    latencies = [1000 * (result.at - turn.end) for turn, result in came]
    right = sum(same(turn.text, result.text) for turn, result in came)
    p50, p95 = np.percentile(latencies, (50, 95))
    return Row(
        name=name,
        utterances=len(pairs),
        right=right,
        wrong=len(came) - right,
        missed=len(pairs) - len(came),
        extra=extra,
        p50_ms=round(float(p50), 1),
        p95_ms=round(float(p95), 1),
        max_ms=round(max(latencies), 1),
        parameters=parameters,
        latencies_ms=[round(latency, 1) for latency in latencies],
    )


def peer(python: str, wav: Path, seconds: float, parameters: dict[str, Any]) -> tuple[list[Result], dict[str, str]]:
    """Let RealtimeSTT hear the file; return its results, and the versions of what it is made of.

    Raises:
        BenchmarkError: the interpreter is not there, or has no RealtimeSTT that starts.

    """
    script = Path(__file__).with_name("peer_realtimestt.py")
    try:
        process = subprocess.run(
            [python, str(script), str(wav), json.dumps(parameters)],
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds + PATIENCE,
        )
    except OSError as error:
        raise BenchmarkError(f"{python} cannot be started: {error} (--peer-python)") from error
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"RealtimeSTT is not done {PATIENCE:g} s after the speech; it was stopped") from error
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    failed = next((line["error"] for line in lines if "error" in line), None)
    if failed is not None or not lines:
        reason = failed or f"it ended with status {process.returncode}"
        raise BenchmarkError(
            f"RealtimeSTT does not run with {python}: {reason}. {Path(__file__).name} says how to get it"
        )
    return [Result(line["at"], line["text"]) for line in lines if "text" in line], lines[0]["versions"]


def ours(wav: Path) -> tuple[list[Result], list[Result]]:
    """Let the nodes hear the file; return what came on ``transcript`` and the final answers on ``emotion``.

    Raises:
        BenchmarkError: a node refuses to start, or answers stop coming.

    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from rclpy.node import Node

    from synctva_ros import msg
    from synctva_ros.ros.graph import Graph, GraphError
    from synctva_ros.ros.node import QOS_RESULT

    # By the utterance's id: the message, and when it was in the callback on the clock of the stamps [ns].
    transcripts: dict[str, tuple[msg.Transcript, int]] = {}
    emotions: dict[str, tuple[Emotion, int]] = {}

    def on_transcript(message: msg.Transcript) -> None:
        transcripts[message.utterance_id] = message, time.time_ns()

    def on_emotion(emotion: Emotion) -> None:
        now = time.time_ns()
        if emotion.is_final:
            emotions[emotion.utterance_id] = emotion, now

    overrides = {**OURS, "media": {**OURS["media"], "file": str(wav)}}
    graph = Graph(overrides, None, on_emotion)
    listener = Node("benchmark_listener")
    try:
        listener.create_subscription(msg.Transcript, "transcript", on_transcript, QOS_RESULT)
        graph.executor.add_node(listener)
        graph.start()
        while not graph.finished:
            time.sleep(0.05)
    except GraphError as error:
        raise BenchmarkError(f"synctva_ros: {error}") from error
    finally:
        graph.stop()
    words: list[Result] = []
    finals: list[Result] = []
    for identity, (emotion, now) in emotions.items():
        heard = emotion.end / 1e9 - emotion.stream_end  # the first sample, on the stamps' clock
        finals.append(Result(now / 1e9 - heard, emotion.text))
        if identity in transcripts:
            transcript, then = transcripts[identity]
            words.append(Result(then / 1e9 - heard, transcript.text))
    return words, finals


def measure(speech: Speech, python: str) -> tuple[list[Row], dict[str, str]]:
    """All candidates, one after the other; also the versions of what RealtimeSTT is made of."""
    rows: list[Row] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "speech.wav")
        speech.write_wav(wav)
        for name, parameters in PEER.items():
            say(f"{name}: {speech.seconds:.0f} s of speech ...")
            results, versions = peer(python, wav, speech.seconds, parameters)
            rows.append(score(f"{name}: text", results, speech.turns, {**parameters, "model": DEMO_WHISPER.name}))
        say(f"synctva_ros: {speech.seconds:.0f} s of speech ...")
        words, finals = ours(wav)
    parameters = {**OURS, "transcriber": {**OURS["transcriber"], "model": DEMO_WHISPER.name}}
    rows.append(score("synctva_ros: transcript", words, speech.turns, parameters))
    rows.append(score("synctva_ros: final emotion", finals, speech.turns, parameters))
    return rows, versions


def say(sentence: str) -> None:
    """What goes on, beside the table."""
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compare the time from the end of speech with RealtimeSTT's.")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds of the dialogue, of 12 turns each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter of the environment with RealtimeSTT"
    )
    arguments = parser.parse_args()
    try:
        speech = spoken(arguments.repeats)
        rows, versions = measure(speech, arguments.peer_python)
    except (BenchmarkError, ValueError) as error:
        raise SystemExit(f"peer.py: {error}") from error
    print(f"{'from the true end of speech [ms]':<48} {'p50':>6} {'p95':>6} {'max':>6}  right wrong missed extra")
    for row in rows:
        times = f"{row.p50_ms:>6.0f} {row.p95_ms:>6.0f} {row.max_ms:>6.0f}"
        print(f"{row.name:<48} {times} {row.right:>6} {row.wrong:>5} {row.missed:>6} {row.extra:>5}")
    if arguments.json:
        here = {"synctva_ros": __version__, **{name: version(name) for name in ("faster-whisper", "ctranslate2")}}
        found = {"versions": {"synctva_ros": here, "RealtimeSTT": versions}, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
