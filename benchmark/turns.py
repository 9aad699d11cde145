"""How well turns and voices are found in rooms: conversations with the truth beside them, through the first stage.

    python benchmark/turns.py [ROOMS] [--set detector=webrtc ...] [--parts] [--json FILE]

``ROOMS`` holds ``NN.flac`` and ``NN.json`` (``{"condition": "quiet", "turns": [{"start", "end", "speaker"}, ...]}``,
seconds) or ``NN.rttm``; without it the rooms are made of synthesised voices, for which eSpeak NG is needed. No words,
emotions or faces are looked at here; ``synctva recognize`` answers the same turns with emotions.

    F1        of turns: an answer counts when half of it or more is that turn, and it spans half of the turn or more
    end       mean error of the ends of turns that are found [s]
    alone     share of the answered time in which only the person who is answered for speaks
    person    share of all turns that are found with the right person, under the best naming of the dialogue's voices
    DER, JER  diarization error rate without collar, and Jaccard error rate (needs ``pip install pyannote.metrics``)
    pause     mean time between the true end of a turn that a pause ended and the moment when it is given out [s]
    change    the same of turns that somebody else's beginning ended
    core      seconds of one core for a second of sound; the last line says it of silence

``--parts`` prints a line for the whole, and for the whole without each of its parts; ``--plot`` draws who speaks when,
and what was found of it (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from synctva_ros.audio import endpointer
from synctva_ros.config import DEMO, Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy, FloatArray, Utterance
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.playback import Sentences
from synctva_ros.street.table import STREET, use_threads

try:
    from pyannote.core import Annotation, Segment
    from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
except ImportError:
    Annotation = None

sys.path.append(str(Path(__file__).parents[1] / "tools"))  # the demo's making is not installed
from make_dialogue import write_flac

STEP = 0.01
ROOMS, TURNS = 8, 12
#: Of the rooms that are made: noise, or people behind, so far below a voice in front [dB].
CONDITIONS = (("quiet", 0.0), ("noise", 10.0), ("people behind", 15.0), ("noise", 5.0))


@dataclass(frozen=True)
class Turn:
    """Who speaks from when to when [s]."""

    start: float
    end: float
    speaker: str


@dataclass
class Tally:
    """What was counted in rooms of a kind."""

    turns: int = 0
    given: int = 0
    found: int = 0
    right: int = 0
    alone: float = 0.0
    answered: float = 0.0
    work: float = 0.0
    heard: float = 0.0
    ends: list[float] = field(default_factory=list)
    after: dict[EndedBy, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if Annotation is not None:
            self.rates = [DiarizationErrorRate(collar=0.0), JaccardErrorRate(collar=0.0)]

    def add(self, truth: list[Turn], answers: list[tuple[Utterance, float]], heard: float, work: float) -> None:
        """Count a room: its turns, utterances with when each was given out [s], and what it took."""
        utterances = [utterance for utterance, _ in answers]
        given = [Turn(each.stream_start, each.stream_end, each.speaker_id) for each in utterances]
        found = matched(truth, given)
        grid = np.arange(0, max(turn.end for turn in truth) + 2, STEP)
        speaks = {who: during([t for t in truth if t.speaker == who], grid) for who in {t.speaker for t in truth}}
        voices = sum(speaks.values())
        for number, answer in enumerate(given):
            inside = (grid >= answer.start) & (grid < answer.end)
            self.answered += float(inside.sum())
            if number in found:
                self.alone += float((inside & (voices == 1) & (speaks[truth[found[number]].speaker] == 1)).sum())
        self.turns, self.given, self.found = self.turns + len(truth), self.given + len(given), self.found + len(found)
        self.right += rightly_named(truth, given, found)
        self.ends += [abs(given[n].end - truth[m].end) for n, m in found.items()]
        for n, m in found.items():
            self.after[utterances[n].ended_by].append(answers[n][1] - truth[m].end)
        self.work, self.heard = self.work + work, self.heard + heard
        for rate in self.rates:
            rate(annotation(truth), annotation(given))

    def figures(self) -> dict[str, float]:
        """What the columns show."""
        figures = {
            "F1": 2 * self.found / max(self.turns + self.given, 1),
            "end": float(np.mean(self.ends or [np.nan])),
            "alone": self.alone / max(self.answered, 1.0),
            "person": self.right / max(self.turns, 1),
        }
        figures |= {name: float(abs(rate)) for name, rate in zip(("DER", "JER"), self.rates, strict=False)}
        for name, cause in (("pause", EndedBy.PAUSE), ("change", EndedBy.SPEAKER)):
            figures[name] = float(np.mean(self.after[cause] or [np.nan]))
        return figures | {"core": self.work / max(self.heard, 1e-9)}


def during(turns: list[Turn], grid: FloatArray) -> Any:
    """1 at the times at which one of the turns is."""
    return np.array([(grid >= turn.start) & (grid < turn.end) for turn in turns]).any(axis=0).astype(int)


def matched(truth: list[Turn], given: list[Turn]) -> dict[int, int]:
    """Number of the turn that each answer is, where it is one; each turn once, the longest in common first."""
    pairs = []
    for n, answer in enumerate(given):
        for m, turn in enumerate(truth):
            common = min(answer.end, turn.end) - max(answer.start, turn.start)
            if common >= 0.5 * max(answer.end - answer.start, turn.end - turn.start):
                pairs.append((-common, n, m))
    found: dict[int, int] = {}
    for _, n, m in sorted(pairs):
        if n not in found and m not in found.values():
            found[n] = m
    return found


def rightly_named(truth: list[Turn], given: list[Turn], found: dict[int, int]) -> int:
    """How many have the right voice, when each voice is the person that makes most of them right."""
    voices = sorted({turn.speaker for turn in given} - {""})
    people = sorted({turn.speaker for turn in truth})
    counts = np.zeros((len(voices), len(people)), int)
    for n, m in found.items():
        if given[n].speaker:
            counts[voices.index(given[n].speaker), people.index(truth[m].speaker)] += 1
    return int(counts[linear_sum_assignment(-counts)].sum())


def annotation(turns: list[Turn]) -> Any:
    """As pyannote.metrics wants it; whose voice is unknown is a person of his own."""
    found = Annotation()
    for number, turn in enumerate(turns):
        found[Segment(turn.start, turn.end), number] = turn.speaker or f"unknown {number}"
    return found


def turns_of(path: Path, settings: dict[str, Any]) -> tuple[list[tuple[Utterance, float]], float, float]:
    """The utterances of a file with when they were given out [s], the seconds of sound, and those of one core."""
    config = Turns(**{"speculate": False, "provisional_interval": 0.0} | settings)
    use_threads(1)
    (stage,) = STREET["utterance"](config, Sentences(print, print))
    found: list[tuple[Utterance, float]] = []
    chunks = [item for item in MediaFile(path, video_rate=0.0).play(0) if isinstance(item, AudioChunk)]
    heard = 0.0
    began = time.process_time()
    for chunk in chunks:
        given = [event for event in stage.process(chunk) if isinstance(event, Utterance) and event.is_final]
        heard = (chunk.end - chunks[0].stamp) / NANOSECONDS
        found += [(utterance, heard) for utterance in given]
    found += [(utterance, heard) for utterance in stage.flush() if utterance.is_final]
    return found, heard, time.process_time() - began


@contextmanager
def without(part: str) -> Iterator[None]:
    """Switch off a part that has no parameter."""
    parts: dict[str, Callable[..., Any]] = {"HighPass": lambda: lambda samples: samples, "Foreground": Everybody}
    kept = getattr(endpointer, part, None)
    if part:
        setattr(endpointer, part, parts[part])
    try:
        yield
    finally:
        if part:
            setattr(endpointer, part, kept)


class Everybody(endpointer.Foreground):
    """Takes everybody for somebody in front."""

    def __call__(self, power: float, is_voice: bool) -> bool:
        """Whatever the power is."""
        super().__call__(power, is_voice)
        return True


#: The whole, and the whole without each part: settings, and what is switched off by hand.
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({}, ""),
    "no high-pass": ({}, "HighPass"),
    "no levels": ({}, "Foreground"),
    "webrtc for silero": ({"detector": "webrtc"}, ""),
    "no segmenter": ({"segmenter": "none"}, ""),
    "voices not told apart": ({"speaker_encoder": ""}, ""),
}


def make_rooms(out: Path) -> None:
    """Conversations of synthesised voices, half of whose gaps are shorter than 0.2 s."""
    from synctva_ros.training.data import speech_synthesis as synthesis
    from synctva_ros.training.data.voice_augmentation import noise_of

    sentences = (DEMO / "sentences.txt").read_text(encoding="utf-8").splitlines()
    for number in range(ROOMS):
        rng = np.random.default_rng(number)
        condition, below = CONDITIONS[number % len(CONDITIONS)]
        voices = [str(voice) for voice in rng.permutation(synthesis.HELD_OUT_VOICES)]
        in_front, behind = voices[: 2 + number % 2], voices[3:7]

        def say(voice: str, rng: np.random.Generator = rng) -> FloatArray:
            sound = synthesis.synthesise(str(rng.choice(sentences)), voice)
            sound = sound[slice(*synthesis.speech_bounds(sound))]
            return np.asarray(0.05 * sound / sound.std(), np.float32)

        turns, pieces, at, last = [], [], 1.5, ""
        for _ in range(TURNS):
            speaker = str(rng.choice([voice for voice in in_front if voice != last]))
            sound, last = say(speaker), speaker
            length = len(sound) / SAMPLE_RATE
            turns.append({"start": at, "end": at + length, "speaker": speaker})
            pieces.append((at, sound))
            at += length + (rng.uniform(-0.3, 0.2) if rng.random() < 0.5 else rng.uniform(0.2, 1.2))
        room = np.zeros(round((at + 2.0) * SAMPLE_RATE), np.float32)
        for start, sound in pieces:
            first = round(start * SAMPLE_RATE)
            room[first : first + len(sound)] += sound[: len(room) - first]
        others = np.zeros_like(room)
        if condition == "noise":
            others = noise_of(len(room), 1.0, rng)
        elif condition == "people behind":
            for voice in behind:
                others += np.resize(np.concatenate([say(voice) for _ in range(8)]), len(room))
        if others.any():
            room += others / others.std() * 0.05 * 10 ** (-below / 20)
        write_flac(out / f"{number:02}.flac", room / max(1.0, float(np.abs(room).max())))
        label = f"{condition} {below:g} dB" if below else condition
        (out / f"{number:02}.json").write_text(json.dumps({"condition": label, "turns": turns}))


@dataclass(frozen=True)
class Heard:
    """A room, and what was found in it."""

    name: str
    truth: list[Turn]
    given: list[Turn]


def plot(rooms: list[Heard], path: Path) -> None:
    """Who speaks when, above what was found of it; a colour is a person, or the voice that is that person most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.5 * len(rooms)), layout="tight")
    axes = figure.subplots(len(rooms), squeeze=False)
    for axis, room in zip(axes[:, 0], rooms, strict=True):
        found = matched(room.truth, room.given)
        people = sorted({turn.speaker for turn in room.truth})
        named: dict[str, list[str]] = defaultdict(list)
        for n, m in found.items():
            named[room.given[n].speaker].append(room.truth[m].speaker)
        for row, turns in ((1, room.truth), (0, room.given)):
            for turn in turns:
                likely = [turn.speaker] if row else named.get(turn.speaker, []) if turn.speaker else []
                colour = f"C{people.index(max(set(likely), key=likely.count))}" if likely else "0.7"
                axis.barh(
                    row, turn.end - turn.start, left=turn.start, color=colour, edgecolor="k", height=0.7, alpha=0.8
                )
                said = f"{people.index(turn.speaker) + 1}" if row else turn.speaker
                axis.text((turn.start + turn.end) / 2, row, said, ha="center", va="center", fontsize=7)
        axis.set_yticks([0, 1], ["found", "truth"])
        axis.set_title(room.name, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("s")
    figure.savefig(path, dpi=110)


def read_truth(path: Path) -> tuple[str, list[Turn]]:
    """The condition and the turns of a recording; those of an RTTM file are in no condition."""
    table = path.with_suffix(".rttm")
    if not table.exists():
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return about["condition"], [Turn(t["start"], t["end"], str(t["speaker"])) for t in about["turns"]]
    turns = []
    for line in table.read_text(encoding="utf-8").splitlines():
        kind, _, _, start, length, _, _, speaker, *_ = line.split()
        if kind == "SPEAKER":
            turns.append(Turn(float(start), float(start) + float(length), speaker))
    return path.stem, turns


def measure(rooms: Path, settings: dict[str, Any]) -> tuple[dict[str, Tally], list[Heard]]:
    """Go through the rooms; the tallies of each condition, and of all, and what was found in each room."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    heard_in = []
    for path in sorted(path for path in rooms.iterdir() if path.suffix in (".flac", ".wav")):
        condition, truth = read_truth(path)
        answers, heard, work = turns_of(path, settings)
        for name in (condition, "all"):
            tallies[name].add(truth, answers, heard, work)
        given = [Turn(each.stream_start, each.stream_end, each.speaker_id) for each, _ in answers]
        heard_in.append(Heard(f"{path.stem} ({condition})", truth, given))
    return tallies, heard_in


def in_silence(settings: dict[str, Any]) -> float:
    """Seconds of one core for a second of a quiet room."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "silence.flac"
        write_flac(path, np.random.default_rng(0).normal(0.0, 3e-4, 60 * SAMPLE_RATE).astype(np.float32))
        _, heard, work = turns_of(path, settings)
    return work / heard


def show(name: str, figures: dict[str, float], first: bool) -> None:
    """A line of the table."""
    if first:
        print(f"{'':22}" + "".join(f"{column:>8}" for column in figures))
    print(f"{name:22}" + "".join(f"{value:8.3f}" for value in figures.values()))


def main() -> None:
    """Find the turns and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path, nargs="?", help="folder with NN.flac and NN.json (made of eSpeak's voices)")
    parser.add_argument("--set", action="append", default=[], metavar="PARAMETER=VALUE", help="of the node utterance")
    parser.add_argument("--parts", action="store_true", help="without each part in turn, instead of by condition")
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="gets a picture of the first four rooms (PNG)")
    arguments = parser.parse_args()
    known = {each.name: each for each in Turns.params()}
    settings = {name: known[name].read(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as made:
        rooms = arguments.rooms or Path(made)
        if arguments.rooms is None:
            make_rooms(rooms)
        for part, (changes, by_hand) in PARTS.items() if arguments.parts else [("all", ({}, ""))]:
            with without(by_hand):
                tallies, heard_in = measure(rooms, settings | changes)
            for name, tally in {part: tallies["all"]}.items() if arguments.parts else tallies.items():
                found[name] = tally.figures()
                show(name, found[name], len(found) == 1)
            if arguments.plot:
                plot(heard_in[:4], arguments.plot)
    silence = in_silence(settings)
    print(f"in silence {100 * silence:.1f} % of one core")
    if arguments.json:
        arguments.json.write_text(json.dumps({"figures": found, "silence": silence}, indent=1))


if __name__ == "__main__":
    main()
