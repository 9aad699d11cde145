"""Acoustic functionals: shape, invariances, what they follow."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from scipy import signal

from synctva_ros.encoders.audio import as_speech
from synctva_ros.encoders.functionals import AcousticFunctionals
from synctva_ros.encoders.voice_network import VoiceNetworkConfig
from synctva_ros.events import FloatArray

RATE = 16000


@pytest.fixture(scope="module")
def functionals() -> AcousticFunctionals:
    return AcousticFunctionals()


def voice(seconds: float, pitch: float = 120.0, glide: float = 0.0, seed: int = 0) -> FloatArray:
    """A buzz through two formants, in syllables of a quarter second."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    frequency = pitch * 2 ** (glide / 12 * (t / seconds - 0.5))
    buzz = np.diff(np.floor(np.cumsum(frequency) / RATE), prepend=0.0)
    for formant in (600, 1700):
        pole = np.exp(-np.pi * 90 / RATE)
        buzz = signal.lfilter([1], [1, -2 * pole * np.cos(2 * np.pi * formant / RATE), pole**2], buzz)
    syllables = 0.05 + np.sin(np.pi * 4 * t) ** 2
    sound = buzz * syllables / max(np.abs(buzz).max(), 1.0) * 0.3 + rng.normal(0, 1e-4, len(t))
    return np.asarray(sound, np.float32)


def distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("seconds", [0.001, 0.1, 1.0, 3.0, 60.0])
def test_any_length(functionals: AcousticFunctionals, seconds: float) -> None:
    vector = functionals.of(voice(seconds))
    assert vector.shape == (functionals.width,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert np.abs(vector).max() <= 10


def test_a_new_network_expects_as_many(functionals: AcousticFunctionals) -> None:
    assert VoiceNetworkConfig(classes=7).functionals == functionals.width


@pytest.mark.parametrize("gain", [0.1, 3.0, 100.0])
def test_gain_does_not_matter(functionals: AcousticFunctionals, gain: float) -> None:
    sound = as_speech(voice(2), RATE)
    assert sound is not None
    assert distance(functionals.of(sound * np.float32(gain)), functionals.of(sound)) < 1e-3


def test_silence_around_does_not_matter(functionals: AcousticFunctionals) -> None:
    sound = voice(2)
    padded = np.concatenate([np.zeros(8000, np.float32), sound, np.zeros(4800, np.float32)])
    assert np.abs(functionals.of(padded) - functionals.of(sound)).mean() < 0.05


@pytest.mark.parametrize("pitch", [80.0, 120.0, 220.0, 350.0])
def test_pitch_is_in_the_vector(functionals: AcousticFunctionals, pitch: float) -> None:
    """Some element is the median pitch in octaves over 27.5 Hz."""
    octaves = np.log2(pitch / 27.5)
    assert np.abs(functionals.of(voice(2, pitch)) - octaves).min() < 0.02


def test_glide_direction_matters(functionals: AcousticFunctionals) -> None:
    up, flat, down = (functionals.of(voice(2, 150, glide)) for glide in (12, 0, -12))
    # The slope of pitch: 12 semitones over the utterance, opposite signs, none in between.
    slope = np.argmax(np.minimum(up - flat, flat - down))
    assert up[slope] > flat[slope] + 1 > down[slope] + 2


def test_odd_sounds_stay_finite(functionals: AcousticFunctionals) -> None:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (1, 2, 639, 641, 1600, 8000):
            noise = rng.standard_normal(length)
            click = np.zeros(length)
            click[length // 2] = 1
            late = np.where(np.arange(length) < length // 2, 0, noise)
            tone = np.sin(np.arange(length) * 0.05)
            train = (np.arange(length) % 200 == 0).astype(float)
            for sound in (noise, click, late, tone, np.sign(noise), train, noise * 1e20, noise * 1e-5):
                speech = as_speech(sound.astype(np.float32), RATE)
                if speech is not None:  # a single sample is but an offset
                    vector = functionals.of(speech)
                    assert np.isfinite(vector).all()
                    assert np.abs(vector).max() <= 10


def test_input_is_left_alone(functionals: AcousticFunctionals) -> None:
    sound = voice(0.5)
    before = sound.copy()
    functionals.of(sound)
    np.testing.assert_array_equal(sound, before)


def test_cost(functionals: AcousticFunctionals) -> None:
    """At most 40 ms of processor time for 3 s; best of ten, since the machine may be busy."""
    sound = voice(3)
    times = []
    for _ in range(10):
        start = time.thread_time()
        functionals.of(sound)
        times.append(time.thread_time() - start)
    assert min(times) < 0.04
