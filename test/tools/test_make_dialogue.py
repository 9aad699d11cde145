"""The demo dialogue and its ground truth."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

import av
import numpy as np
import pytest
from make_dialogue import make_dialogue

from synctva_ros.demo import sentences
from synctva_ros.events import EMOTIONS
from synctva_ros.training.data.speech_synthesis import HELD_OUT_VOICES

DEMO = files("synctva_ros") / "demo"
TRUTH = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))


def shipped_sound() -> np.ndarray:
    with av.open(str(DEMO / "dialogue.flac")) as container:
        assert container.streams.audio[0].rate == TRUTH["sample_rate"]
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)]) / 32768.0


def test_turns_are_known_sentences_in_held_out_voices_with_every_emotion() -> None:
    turns = TRUTH["turns"]
    assert len(turns) == 12
    assert {turn["text"] for turn in turns} <= set(sentences())
    assert {turn["emotion"] for turn in turns} == set(EMOTIONS)
    assert {turn["speaker"] for turn in turns} == set(TRUTH["voices"])
    assert set(TRUTH["voices"].values()) <= set(HELD_OUT_VOICES)


def test_there_is_sound_in_the_turns_and_only_noise_between_them() -> None:
    sound, rate = shipped_sound(), TRUTH["sample_rate"]
    quiet = np.ones(len(sound), dtype=bool)
    for turn in TRUTH["turns"]:
        turn_samples = slice(round(turn["start"] * rate), round(turn["end"] * rate))
        assert np.std(sound[turn_samples]) > 0.02
        quiet[turn_samples] = False
    assert np.abs(sound[quiet]).max() < 0.005
    starts, ends = ([turn[key] for turn in TRUTH["turns"]] for key in ("start", "end"))
    pauses = np.subtract(starts[1:], ends[:-1])
    assert pauses.min() >= 1.2
    assert pauses.max() <= 2.0


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_it_can_be_made_again() -> None:
    sound, truth = make_dialogue()
    assert [turn["text"] for turn in truth["turns"]] == [turn["text"] for turn in TRUTH["turns"]]
    # Another release of eSpeak NG may speak a little faster or slower.
    assert len(sound) / truth["sample_rate"] == pytest.approx(len(shipped_sound()) / TRUTH["sample_rate"], rel=0.05)
