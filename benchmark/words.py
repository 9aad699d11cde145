"""What a recogniser makes of speech, of another language, and of sounds that are no speech.

    python benchmark/words.py --data DATA [--model demo FOLDER ...] [--threads 1] [--clips 60]

``DATA`` holds ``speech_text`` (clips and ``transcripts.tsv``) and ``speech_emotion`` (RAVDESS, nEMO, EMOVO, ASED).
Every clip goes to the recogniser as an utterance of its own; sounds that are no speech go there in pieces of 3 s as
well, although the end-pointer would keep most of them away. Needs ``jiwer``.

    WER        word error rate against the transcript, without case and punctuation
    kept       share of the clips that get words; of another language than the recogniser's, none should
    invented   sentences per minute of sound that is no speech
    time       seconds for an utterance of so many seconds, best of three
    memory     what loading the model adds [MB]
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from synctva_ros.audio.transcriber import Transcriber
from synctva_ros.config import DEMO_WHISPER, Words
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy, FloatArray, Transcript, Utterance
from synctva_ros.sources.media import MediaFile

sys.path.append(str(Path(__file__).parents[1] / "tools"))  # not installed
from bad_input import make_bad_input

LENGTHS = (1.0, 3.0, 5.0, 10.0, 15.0)
PIECE = 3.0
#: Of RAVDESS and nEMO: people whom none of our networks learned of.
HELD_OUT = {"17", "18", "19", "20", "TP0", "WR0"}
normalise = BasicTextNormalizer()
#: Of ``tools/bad_input.py``: sounds in which nobody says anything.
NO_SPEECH = (
    *("quiet_room", "white_noise", "chords", "melody", "barks", "knocks", "vacuum_cleaner"),
    *("cough", "sneeze", "laugh", "crying", "singing"),
)


def read(path: Path) -> FloatArray:
    """Mono sound ``[n]`` at 16 kHz."""
    chunks = MediaFile(path, video_rate=0.0).play(0)
    return np.concatenate([chunk.samples.mean(axis=1) for chunk in chunks if isinstance(chunk, AudioChunk)])


def utterance(sound: FloatArray) -> Utterance:
    """All of a sound, as the end-pointer would give it."""
    seconds = len(sound) / SAMPLE_RATE
    rms = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
    return Utterance(
        "u", "s", 0, 0, 0, round(seconds * NANOSECONDS), 0.0, seconds, EndedBy.PAUSE, 0, SAMPLE_RATE, sound, rms, False
    )


def clips(data: Path, most: int) -> Iterator[tuple[str, Path, str]]:
    """Name of a set, file and transcript; of each set at most so many, evenly spread."""
    for row in csv.DictReader(
        (data / "speech_text/transcripts.tsv").read_text("utf-8").splitlines(), ["f", "t"], delimiter="\t"
    ):
        yield "speech_text", data / "speech_text" / row["f"], row["t"]
    for corpus, column in (("ravdess", "transcript"), ("nemo", "text"), ("emovo", ""), ("ased", "")):
        folder = data / "speech_emotion" / corpus
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if not column or row["actor"] in HELD_OUT]
        for at in np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int):
            yield corpus, folder / rows[at]["file"], rows[at][column] if column else ""


def measure(name: str, args: argparse.Namespace, sounds: dict[str, FloatArray]) -> None:
    """Print what one recogniser does."""
    import jiwer

    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    model = str(DEMO_WHISPER) if name == "demo" else name
    config = Words(model=model, threads=args.threads, language=args.language, min_rms=0.0)
    recogniser = Transcriber(config, print, print)
    if not recogniser.model_id:
        return
    loaded = time.perf_counter() - began
    print(f"{name}: loaded in {loaded:.1f} s, {(psutil.Process().memory_info().rss - before) / 2**20:.0f} MB")
    sets: dict[str, list[tuple[str, Transcript]]] = {}
    for kind, path, text in clips(args.data, args.clips):
        sets.setdefault(kind, []).append((text, recogniser.transcribe(utterance(read(path)))))
    for kind, heard in sets.items():
        kept = [said for _, said in heard if said.text]
        known = [(normalise(text), normalise(said.text)) for text, said in heard if text]
        rate = f"WER {jiwer.wer([text for text, _ in known], [said for _, said in known]):.3f}" if known else " " * 9
        print(f"  {kind:12} {rate}  kept {len(kept) / len(heard):.2f} of {len(heard)}")
    invented, minutes = [], 0.0
    for kind, sound in sounds.items():
        for piece in np.array_split(sound, max(1, round(len(sound) / SAMPLE_RATE / PIECE))):
            minutes += len(piece) / SAMPLE_RATE / 60
            said = recogniser.transcribe(utterance(piece))
            if said.text:
                invented.append(f"{kind}: {said.text} ({said.average_logprob:.2f})")
    print(f"  invented {len(invented) / minutes:.1f} per minute: {'; '.join(invented)}")
    speech = np.concatenate([read(path) for kind, path, _ in clips(args.data, 1) if kind == "speech_text"])
    for seconds in LENGTHS:
        spoken = utterance(speech[: round(seconds * SAMPLE_RATE)])
        print(f"  {seconds:4.0f} s of speech: {min(recogniser.transcribe(spoken).duration for _ in range(3)):.2f} s")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["demo"], help="names or folders")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--language", default="")
    parser.add_argument("--clips", type=int, default=60, help="of each corpus, at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_bad_input(Path(folder))
        sounds = {name: read(Path(folder) / f"{name}.flac") for name in NO_SPEECH}
    for name in args.model:
        measure(name, args, sounds)


if __name__ == "__main__":
    main()
