"""How well encoders of voices tell people apart: equal error rates over pairs of utterances.

    python benchmark/voices.py --data DIR [--corpora emovo,ravdess] [--encoders campplus,voiceprint] [--json FILE]

Each utterance is the first 3 s of a recording, silence cut off; shorter ones than 1 s are left out. The column
``centred`` is of vectors from which the mean over the corpus was taken out, which nobody knows who meets a voice first.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from synctva_ros.encoders.registry import create_encoder
from synctva_ros.evaluation.metrics import verify
from synctva_ros.events import SAMPLE_RATE, AudioChunk, FloatArray
from synctva_ros.sources.media import MediaFile
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.registry import read_split
from synctva_ros.training.data.speech_synthesis import speech_bounds

#: Recordings of a person.
MOST = 30
#: Length of what is compared [s].
SHORTEST, LONGEST = 1.0, 3.0


def read_voices(data: Path, corpus: str, people: set[str]) -> tuple[list[FloatArray], IntArray]:
    """Utterances, and numbers of the people who spoke them; of these people, or of all when there are none."""
    import soxr

    by_person = defaultdict(list)
    for item in read_split(data, corpus, "train").items:
        if item.path is not None and (not people or f"{corpus}/{item.person}" in people):
            by_person[item.person].append(item.path)
    sounds, who = [], []
    for number, paths in enumerate(by_person.values()):
        for chosen in np.random.default_rng(number).permutation(len(paths))[:MOST]:
            chunks = [item for item in MediaFile(paths[chosen], video_rate=0.0).play(0) if isinstance(item, AudioChunk)]
            sound = np.concatenate([chunk.samples.mean(axis=1) for chunk in chunks])
            sound = np.asarray(soxr.resample(sound, chunks[0].sample_rate, SAMPLE_RATE), np.float32)
            sound = sound[slice(*speech_bounds(sound))][: round(LONGEST * SAMPLE_RATE)]
            if len(sound) >= SHORTEST * SAMPLE_RATE:
                sounds.append(sound)
                who.append(number)
    return sounds, np.array(who)


def main() -> None:
    """Print a line for each corpus and encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the corpora")
    parser.add_argument("--corpora", default="emovo,ravdess,nemo,ased", metavar="NAMES", help="with commas between")
    parser.add_argument("--people", default="", metavar="NAMES", help="only these (ravdess/17), with commas between")
    parser.add_argument("--encoders", default="campplus,voiceprint", metavar="NAMES", help="name, or name=weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people = {name for name in arguments.people.split(",") if name}
    figures: dict[str, dict[str, list[float]]] = {}
    print(f"{'':22}{'people':>8}{'clips':>8}{'plain':>8}{'centred':>9}")
    encoders = {name: create_encoder("speaker", *name.split("=")) for name in arguments.encoders.split(",")}
    for corpus in arguments.corpora.split(","):
        here = {name for name in people if name.startswith(f"{corpus}/")}
        sounds, who = read_voices(arguments.data, corpus, here)
        for name, encoder in encoders.items():
            vectors = np.stack([encoder.encode(sound, SAMPLE_RATE) for sound in sounds])
            rates = [verify(each, who)[0] for each in (vectors, vectors - vectors.mean(axis=0))]
            figures.setdefault(corpus, {})[name] = rates
            print(f"{corpus} {name:{21 - len(corpus)}}{len(set(who)):8}{len(who):8}{rates[0]:8.3f}{rates[1]:9.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
