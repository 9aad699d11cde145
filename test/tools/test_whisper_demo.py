"""The shipped demo recogniser, by way of faster-whisper: what it hears, what it refuses, what its card says."""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import whisper_demo
from whisper_demo import (
    NOISE_KINDS,
    OTHER_SENTENCES,
    as_handed_over,
    make_noise,
    no_speech_probability,
    transcribe,
    word_errors,
)

from synctva_ros.demo import sentences
from synctva_ros.training.data.speech_synthesis import HELD_OUT_VOICES, SAMPLE_RATE, TRAINING_VOICES, synthesise
from synctva_ros.training.loop import read_log

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

FOLDER = Path(str(files("synctva_ros") / "weights" / "whisper_demo"))
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    faster_whisper = pytest.importorskip("faster_whisper")
    return faster_whisper.WhisperModel(str(FOLDER), device="cpu", cpu_threads=1, local_files_only=True)


@needs_espeak
def test_held_out_voices_are_understood(model: WhisperModel) -> None:
    rng = np.random.default_rng(1)
    counts = []
    for index, sentence in enumerate(sentences()):
        sound = synthesise(sentence, HELD_OUT_VOICES[index % len(HELD_OUT_VOICES)])
        counts.append(word_errors(sentence, transcribe(model, as_handed_over(rng, sound, 30.0))))
    errors, words = np.sum(counts, axis=0)
    assert errors / words <= 0.10


@needs_espeak
def test_other_speech_is_refused(model: WhisperModel) -> None:
    rng = np.random.default_rng(2)
    sounds = [
        as_handed_over(rng, synthesise(text, HELD_OUT_VOICES[index % len(HELD_OUT_VOICES)]), 30.0)
        for index, text in enumerate(OTHER_SENTENCES)
    ]
    refused = [transcribe(model, sound) == "" for sound in sounds]
    assert np.mean(refused) >= 0.7


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_is_no_speech(model: WhisperModel, kind: str) -> None:
    sound = make_noise(np.random.default_rng(3), kind, 2 * SAMPLE_RATE) * np.float32(0.02)
    assert transcribe(model, sound) == ""
    assert no_speech_probability(model, sound) > 0.6


@pytest.mark.parametrize("compute_type", ["default", "float32", "int8"])
def test_the_dialogue_is_transcribed_exactly(compute_type: str) -> None:
    faster_whisper = pytest.importorskip("faster_whisper")
    model = faster_whisper.WhisperModel(
        str(FOLDER), device="cpu", cpu_threads=1, compute_type=compute_type, local_files_only=True
    )
    demo = files("synctva_ros") / "demo"
    sound = faster_whisper.decode_audio(str(demo / "dialogue.flac"))
    turns = json.loads((demo / "dialogue.json").read_text(encoding="utf-8"))["turns"]
    for turn in turns:
        cut = slice(round((turn["start"] - 0.3) * SAMPLE_RATE), round((turn["end"] + 0.2) * SAMPLE_RATE))
        assert transcribe(model, sound[cut]) == turn["text"]


def test_voices_are_disjoint() -> None:
    accents, variants = zip(*(voice.split("+") for voice in TRAINING_VOICES), strict=True)
    for voice in HELD_OUT_VOICES:
        assert voice.split("+")[1] not in variants
    assert {voice.split("+")[0] for voice in HELD_OUT_VOICES} - set(accents)


def test_the_card_says_what_the_files_say() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(\d+) sentences", card)[0] == str(len(sentences()))
    vocabulary = json.loads((FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
    assert f"{len(vocabulary)} tokens" in card
    assert all(voice in card for voice in HELD_OUT_VOICES)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 4e6


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [("I got it.", "i got it", 0), ("I got it", "", 3), ("I got it", "I have got", 2), ("Stop!", "stop it now", 2)],
)
def test_word_errors(reference: str, hypothesis: str, errors: int) -> None:
    assert word_errors(reference, hypothesis) == (errors, len(reference.split()))


@needs_espeak
def test_it_is_trained_and_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds on six sentences: the loss falls, and an interruption in the second round changes no bit."""
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")
    tokenizer = whisper_demo.build_tokenizer(sentences())
    examples = [make(0, index) for make in (whisper_demo._known, whisper_demo._noise) for index in range(3)]
    monkeypatch.setattr(whisper_demo, "ROUNDS", (12, 6))
    monkeypatch.setattr(whisper_demo.RecogniserTask, "steps", 3)

    def run(out: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = whisper_demo.build_model(tokenizer)
        whisper_demo.train(model, tokenizer, examples, 0, out)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    whole = run(tmp_path / "whole")
    losses = read_log(tmp_path / "whole/round-1/log.csv")["train_loss"]
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0]
    loss, calls = whisper_demo.RecogniserTask.loss, iter(range(1, 99))

    def interrupted(task: whisper_demo.RecogniserTask, batch: list[whisper_demo.Example]) -> torch.Tensor:
        if next(calls) == 12 + 5:
            raise KeyboardInterrupt
        return loss(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(whisper_demo.RecogniserTask, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
    again = run(tmp_path / "parts")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
