"""Speech made by eSpeak NG."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from synctva_ros.training.data.speech_synthesis import (
    SAMPLE_RATE,
    SynthesisError,
    espeak_path,
    phoneme_times,
    speech_bounds,
    synthesise,
)

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_an_absent_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    espeak_path.cache_clear()
    with pytest.raises(SynthesisError, match="apt-get install espeak-ng"):
        synthesise("hello", "en-us+m3")
    espeak_path.cache_clear()


@needs_espeak
def test_speech_is_mono_at_16_khz_and_the_same_every_time() -> None:
    sound = synthesise("We won the match, hooray!", "en-us+f2")
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert 1.0 < len(sound) / SAMPLE_RATE < 4.0
    assert 0.1 < np.abs(sound).max() <= 1.0
    assert np.array_equal(sound, synthesise("We won the match, hooray!", "en-us+f2"))


@needs_espeak
def test_an_unknown_voice_is_refused_by_name() -> None:
    with pytest.raises(SynthesisError, match="xx-nowhere"):
        synthesise("hello", "xx-nowhere")


def test_bounds_are_those_of_the_loud_frames() -> None:
    sound = np.zeros(SAMPLE_RATE, dtype=np.float32)
    sound[4000:8000] = 0.5
    sound[9600:9760] = 0.001
    assert speech_bounds(sound) == (4000, 8000)


def test_silence_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="no speech"):
        speech_bounds(np.zeros(SAMPLE_RATE, dtype=np.float32))


@needs_espeak
def test_phonemes_begin_one_after_another_within_the_sound() -> None:
    arguments = ("We won the match, hooray!", "en-us+f2", 160, 50)
    phonemes = phoneme_times(*arguments)
    names, starts = zip(*phonemes, strict=True)
    assert list(starts) == sorted(starts)
    assert starts[-1] <= len(synthesise(*arguments)) / SAMPLE_RATE
    assert {"w", "m", "tS", "h"} <= set(names)
    with pytest.raises(SynthesisError, match="xx-nowhere"):
        phoneme_times("hello", "xx-nowhere", 160, 50)
