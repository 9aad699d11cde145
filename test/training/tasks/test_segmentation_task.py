"""Training of the network that finds turns, on voices that are chords of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synctva_ros.audio.segmentation_network import FRAME, SegmentationConfig, load_segmentation
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.data.rooms import Rooms
from synctva_ros.training.data.speech_synthesis import HELD_OUT_VOICES
from synctva_ros.training.loop import fit, seeded
from synctva_ros.training.recipe import SegmentationRecipe, read_recipe
from synctva_ros.training.tasks import segmentation as module
from synctva_ros.training.tasks.segmentation import (
    SegmentationTask,
    as_batch,
    synthetic_people,
    train_segmentation,
)

SMALL = {"epochs": 3, "steps": 4, "batch": 2, "seconds": 6.0, "averaging": 0.5, "synthetic": 0}


def voice(number: int, seconds: float = 1.2) -> FloatArray:
    """A person whose pitch nobody else has."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 110 * 2 ** (number / 5) * (1 + 0.02 * np.sin(2 * np.pi * 5 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.1, np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SegmentationConfig(bands=32, width=16, hidden=24, look_ahead=4, voice=8)
    monkeypatch.setattr(module, "SegmentationConfig", lambda: config)
    monkeypatch.setattr(module, "VALIDATION_ROOMS", 8)


@pytest.fixture
def people() -> dict[str, list[FloatArray]]:
    return {f"a/{number}": [voice(number), voice(number, 0.8)] for number in range(6)}


def task(people: dict[str, list[FloatArray]], **changes: Any) -> SegmentationTask:
    recipe = SegmentationRecipe(**(SMALL | changes))
    return SegmentationTask(recipe, people, {"v/1": [voice(2)], "v/2": [voice(7)]}, seeded(0))


def test_an_answer_is_of_the_frame_that_it_is_asked_for(people: dict[str, list[FloatArray]]) -> None:
    room = Rooms(people, np.random.default_rng(0), 6.0, FRAME)()
    sound, count, change, said = as_batch([room], 4)
    frames = len(room.count) - 4
    assert sound.shape == (1, len(room.sound))
    assert count.shape == change.shape == said.shape == (1, frames)
    np.testing.assert_array_equal(count[0], room.count[:frames])
    (changes,) = np.nonzero(room.change[:frames])
    assert (change[0, changes] == 1.0).all()
    assert float(change.max()) <= 1.0


def test_turns_are_learned(people: dict[str, list[FloatArray]], tmp_path: Path) -> None:
    given = task(people, epochs=6, steps=25, batch=4, learning_rate=5e-3)
    before = given.validate(given.network.eval())
    history = fit(given, given.recipe, tmp_path, "turns", progress=False)
    losses = history.columns["train_loss"]
    assert losses[-1] < 0.75 * losses[0]  # up the gradient it would rise
    after = given.validate(given.network)
    assert after["valid_front"] > max(0.9, before["valid_front"])
    assert after["valid_change"] > 2 * before["valid_change"]


def test_an_interrupted_training_ends_with_the_same_bits(
    people: dict[str, list[FloatArray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = task(people)
    fit(whole, whole.recipe, tmp_path / "whole", "turns", progress=False)
    broken, validate, calls = task(people), SegmentationTask.validate, []

    def stop(self: SegmentationTask, network: torch.nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, network)

    monkeypatch.setattr(SegmentationTask, "validate", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, broken.recipe, tmp_path / "broken", "turns", progress=False)
    monkeypatch.setattr(SegmentationTask, "validate", validate)
    resumed = task(people)
    fit(resumed, resumed.recipe, tmp_path / "broken", "turns", progress=False)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


class Clip:
    """As much of a VoiceClip as is asked for."""

    def __init__(self, corpus: str, number: int) -> None:
        self.corpus, self.person, self.sound = corpus, f"{corpus}/{number}", voice(number)

    def cut(self) -> FloatArray:
        return self.sound


def test_what_is_written_is_what_the_robot_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [Clip("ravdess", n) for n in range(4)] + [Clip("emovo", n) for n in range(5, 8)]
    monkeypatch.setattr(module, "read_clips", lambda data, corpora: clips)
    recipe = SegmentationRecipe(**SMALL, corpora="ravdess,emovo", held_out="emovo,ravdess/3")
    figures = train_segmentation(tmp_path, tmp_path / "out", recipe, progress=False)
    assert figures.keys() == {"valid_front", "valid_overlap", "valid_change"}
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert written["training"]["validation"] == figures
    assert written["training"]["licence"].startswith("CC-BY-NC-SA-4.0")
    assert "EMOVO" in written["training"]["licence"]
    network = load_segmentation(str(tmp_path / "out"))
    logits, _, _ = network(torch.zeros(1, 10 * FRAME), network.start())
    assert torch.isfinite(logits).all()
    assert not list((tmp_path / "out").glob("checkpoint*"))


@pytest.mark.parametrize("held_out", ["", "ravdess"])
def test_nobody_to_talk_with_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: str) -> None:
    monkeypatch.setattr(module, "read_clips", lambda data, corpora: [Clip("ravdess", n) for n in range(4)])
    recipe = SegmentationRecipe(**SMALL, corpora="ravdess", held_out=held_out)
    with pytest.raises(ValueError, match="are too few to talk with each other"):
        train_segmentation(tmp_path, tmp_path / "out", recipe, progress=False)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_synthetic_people_are_different_voices_that_the_demo_does_not_have() -> None:
    people = synthetic_people(3, np.random.default_rng(0))
    assert len(people) == 3
    demo = {name.partition("+")[2] for name in HELD_OUT_VOICES}
    assert not demo & {name.partition("+")[2] for name in people}
    assert synthetic_people(3, np.random.default_rng(0)).keys() == people.keys()
    for sounds in people.values():
        for sound in sounds:
            assert len(sound) > SAMPLE_RATE // 2
            level = np.sqrt(np.mean(np.square(sound[: len(sound) // 160 * 160].reshape(-1, 160)), axis=1))
            assert min(level[0], level[-1]) > 0.005 * level.max()  # no silence at its ends


def test_the_shipped_recipe_is_the_default() -> None:
    assert read_recipe("segmentation") == SegmentationRecipe()
