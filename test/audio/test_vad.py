"""Voices in noise, hum and other people's talk, made of the demo dialogue, whose turns are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synctva_ros.demo
from synctva_ros.audio import vad
from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.vad import DETECTORS, FRAME, Foreground, HighPass
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk
from synctva_ros.sources.media import MediaFile
from synctva_ros.training.data.voice_augmentation import noise_of

DEMO = Path(synctva_ros.demo.__file__).parent
TURNS = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]


@pytest.fixture(scope="module")
def demo():
    """The demo dialogue, mono at 16 kHz."""
    return np.concatenate([item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0)])[:, 0]


def power(demo):
    """Root mean square of the speech."""
    return float(np.sqrt(np.mean(np.concatenate([turn_of(demo, said) for said in TURNS]) ** 2)))


def turn_of(demo, said):
    return demo[round(said["start"] * SAMPLE_RATE) : round(said["end"] * SAMPLE_RATE)]


def people_talking(demo, seed):
    """Four people who all talk at once, with deviation 1."""
    rng = np.random.default_rng(seed)
    speech = np.concatenate([turn_of(demo, said) for said in TURNS])
    talk = sum(np.resize(np.roll(speech, int(rng.integers(len(speech)))), len(demo)) for _ in range(4))
    return talk / talk.std()


def find(samples, **config):
    endpointer = Endpointer(Turns(**{"speculate": False, "provisional_interval": 0.0} | config))
    found = []
    for number, first in enumerate(range(0, len(samples), 480)):
        stamp = first * NANOSECONDS // SAMPLE_RATE
        chunk = AudioChunk("m1", number, stamp, SAMPLE_RATE, samples[first : first + 480, None].astype(np.float32))
        found += endpointer.push(chunk)
    return found + endpointer.flush()


def right(found):
    """How many turns have an utterance whose start and end are within 0.3 s."""
    return sum(
        any(abs(one.stream_start - said["start"]) < 0.3 and abs(one.stream_end - said["end"]) < 0.3 for one in found)
        for said in TURNS
    )


@pytest.mark.parametrize(("decibel", "needed"), [(5, 12), (0, 9)])
def test_turns_are_found_in_noise(demo, decibel, needed):
    noise = noise_of(len(demo), 1.0, np.random.default_rng(decibel)) * power(demo) * 10 ** (-decibel / 20)
    found = find(demo + noise)
    assert right(found) >= needed
    assert len(found) == len(TURNS)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("decibel", "needed"), [(20, 10), (15, 8)])
def test_people_behind_neither_start_a_turn_nor_keep_one_open(demo, decibel, needed, seed):
    talk = people_talking(demo, seed) * power(demo) * 10 ** (-decibel / 20)
    assert right(find(demo + talk)) >= needed


@pytest.mark.parametrize("disturbance", ["hum", "rumble", "offset"])
def test_what_is_below_voices_changes_nothing(demo, disturbance):
    t = np.arange(len(demo)) / SAMPLE_RATE
    added = {
        "hum": 0.1 * np.sin(2 * np.pi * 50 * t),
        "rumble": 0.2 * np.sin(2 * np.pi * 23 * t),
        "offset": np.full(len(t), 0.2),
    }[disturbance]
    found, plain = find(demo + added), find(demo)
    assert len(found) == len(plain) == len(TURNS)
    # A hum of 50 Hz is 24 dB weaker behind the filter, which is above the softest end of a word.
    off = [
        (one.stream_start - other.stream_start, one.stream_end - other.stream_end)
        for one, other in zip(found, plain, strict=True)
    ]
    assert np.abs(off).max() < 0.15
    assert np.median(np.abs(off)) < 0.02


@settings(max_examples=8, deadline=None)
@given(milliseconds=st.integers(0, 40), gain=st.floats(-18, 12))
def test_neither_a_little_silence_before_nor_the_gain_changes_the_turns(demo, milliseconds, gain):
    before = milliseconds * SAMPLE_RATE // 1000
    samples = np.concatenate([np.zeros(before), demo * 10 ** (gain / 20)])
    found = find(np.clip(samples, -1, 1))
    assert len(found) == len(TURNS)
    starts = [one.stream_start - milliseconds / 1000 - said["start"] for one, said in zip(found, TURNS, strict=True)]
    assert np.abs(starts).max() < 0.15


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_that_was_reset_says_the_same_again(demo, name):
    detector = DETECTORS[name](Turns())
    frames = demo[: 4 * SAMPLE_RATE].reshape(-1, FRAME)
    said = []
    for _ in range(2):
        detector.reset()
        said.append([detector(frame) for frame in frames])
    assert said[0] == said[1]
    assert 0.3 < np.mean(said[0]) < 0.9


def test_another_version_of_the_network_says_what_to_do(monkeypatch, tmp_path):
    (tmp_path / "faster_whisper").mkdir()
    (tmp_path / "faster_whisper" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faster_whisper", raising=False)
    monkeypatch.setattr(vad, "_silero", vad._silero.__wrapped__)
    with pytest.raises(ValueError, match=r"silero_vad_v6\.onnx is missing: .*set utterance\.detector to webrtc"):
        Endpointer(Turns(detector="silero"))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 900), min_size=1, max_size=20))
def test_the_filter_does_not_know_of_chunks(cuts):
    samples = np.random.default_rng(0).normal(0.3, 0.1, 4000)
    whole, parts = HighPass(), HighPass()
    ends = np.clip(np.cumsum(cuts), 0, 4000)
    pieces = np.split(samples, ends)
    np.testing.assert_allclose(np.concatenate([parts(piece) for piece in pieces]), whole(samples), atol=1e-6)


def test_an_offset_is_no_click():
    assert np.abs(HighPass()(np.full(1600, 0.5))).max() < 1e-3


def test_somebody_further_away_is_not_in_front_until_the_one_in_front_has_left():
    foreground = Foreground()
    near, far = 10 ** (-20 / 10), 10 ** (-38 / 10)
    words = [number % 60 < 30 for number in range(300)]
    said = [foreground(near if word else 1e-9, is_voice=word) for word in words]
    assert all(loud for loud, word in zip(said, words, strict=True) if word)
    for _ in range(10):
        foreground(far, is_voice=True)
    assert not any(foreground(far, is_voice=True) for _ in range(300))
    said = [foreground(far if number % 100 < 50 else 1e-9, is_voice=number % 100 < 50) for number in range(6000)]
    assert all(said[5915:5950])
