"""Training of the network that tells voices apart, on voices that are chords, by a teacher who knows their pitches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synctva_ros.encoders.voiceprint import VoiceprintConfig, VoiceprintEncoder
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.loop import fit, seeded
from synctva_ros.training.recipe import VoiceprintRecipe, read_recipe
from synctva_ros.training.tasks import voiceprint as module
from synctva_ros.training.tasks.voiceprint import SPEEDS, VoiceprintTask, at_speeds, teach, train_voiceprint

SMALL = {"epochs": 2, "steps": 4, "batch": 8, "averaging": 0.5, "synthetic": 0}


def voice(number: int, seconds: float = 1.2) -> FloatArray:
    """A person whose pitch nobody else has."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * 110 * 2 ** (number / 5) * time
    return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.1, np.float32)


class Ear:
    """Hears the pitch, and nothing of what is shorter than a second."""

    name = "ear"

    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        if len(samples) < SAMPLE_RATE:
            return None
        pitch = np.abs(np.fft.rfft(samples, 1 << 16))[: 1 << 12].argmax() * SAMPLE_RATE / (1 << 16)
        vector = np.cos(np.log(pitch) * np.arange(1, 9) + np.arange(8))
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "VoiceprintConfig", lambda out: VoiceprintConfig(picture=4, width=16, dilations=(1,), out=out)
    )


def task(**changes: Any) -> VoiceprintTask:
    people = {f"a/{number}": [voice(number, 1.6), voice(number, 1.4)] for number in range(5)}
    held_out = {f"v/{number}": [voice(number + 0.5, 1.5)] * 3 for number in range(3)}
    recordings = [sound for sounds in people.values() for sound in sounds]
    targets = np.stack([Ear().encode(sound, SAMPLE_RATE) for sound in recordings])  # type: ignore[arg-type]
    return VoiceprintTask(VoiceprintRecipe(**(SMALL | changes)), people, targets, held_out, seeded(0))


def test_voices_are_learned(tmp_path: Path) -> None:
    given = task(epochs=4, steps=10, learning_rate=1e-2)
    history = fit(given, given.recipe, tmp_path, "voiceprint", progress=False)
    losses = history.columns["train_loss"]
    assert losses[-1] < 0.8 * losses[0]  # up the gradient it would rise
    assert 0.5 < history.columns["valid_apart"][-1] <= 1.0


def test_a_batch_is_of_the_people_that_it_says() -> None:
    given = task()
    bands, said, voices = next(iter(given.batches()))
    assert bands.shape[0] == said.shape[0] == len(voices) == SMALL["batch"]
    assert bands.shape[2] == 80
    torch.testing.assert_close(said.norm(dim=1), torch.ones(len(said)))
    for one in range(len(voices)):
        for other in range(len(voices)):
            if voices[one] == voices[other]:
                torch.testing.assert_close(said[one], said[other])


def test_a_person_is_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDINGS", 4)
    people = at_speeds({"a/0": [voice(0)] * 9, "a/1": [voice(5)]}, np.random.default_rng(0))
    assert {name: len(sounds) for name, sounds in people.items()} == {
        "a/0 x0.88": 2,
        "a/0 x1": 1,
        "a/0 x1.14": 1,
        "a/1 x0.88": 1,
    }
    assert len(people["a/0 x0.88"][0]) == pytest.approx(len(voice(0)) / SPEEDS[0], abs=1)


def test_the_teacher_is_asked_once(tmp_path: Path) -> None:
    recordings = [voice(0, 1.5), voice(1, 0.5), voice(2, 1.5)]
    said = teach(Ear(), recordings, tmp_path / "kept", progress=False)
    assert said.shape == (3, 8)
    assert np.isfinite(said[[0, 2]]).all()
    assert np.isnan(said[1]).all()  # too short for the teacher

    class Deaf:
        def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
            raise AssertionError

    np.testing.assert_array_equal(teach(Deaf(), recordings, tmp_path / "kept", progress=False), said)
    (tmp_path / "kept").write_bytes(b"broken")
    np.testing.assert_array_equal(teach(Ear(), recordings, tmp_path / "kept", progress=False), said)


def test_what_is_written_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = {f"ravdess/{n}": [voice(n, 1.5)] * 2 for n in range(4)}
    held_out = {f"nemo/{n}": [voice(n, 1.5)] * 2 for n in range(2)}
    monkeypatch.setattr(module, "divide", lambda data, corpora, held_out_: (dict(people), held_out))
    recipe = VoiceprintRecipe(**SMALL, corpora="ravdess,nemo")
    error = train_voiceprint(tmp_path, tmp_path / "out", recipe, progress=False, teacher=Ear())
    assert 0.0 <= error <= 1.0
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert written["training"]["validation"] == {"equal_error_rate": error}
    assert written["training"]["teacher"] == "ear"
    assert written["training"]["licence"].startswith("CC-BY-NC-SA-4.0")
    encoder = VoiceprintEncoder(str(tmp_path / "out"))
    assert encoder.same == written["same"]
    vector = encoder.encode(voice(1), SAMPLE_RATE)
    assert vector is not None
    assert vector.shape == (encoder.width,) == (8,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert not list((tmp_path / "out").glob("checkpoint*"))
    assert not list((tmp_path / "out").glob("teacher*"))


def test_the_shipped_recipe_is_the_default() -> None:
    assert read_recipe("voiceprint") == VoiceprintRecipe()
