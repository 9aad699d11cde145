"""Acoustic functionals: shape, invariances, what they follow, errors."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from scipy import signal

from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.types import FloatArray

RATE = 16000


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return AudioEncoder()


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
def test_any_length(encoder: AudioEncoder, seconds: float) -> None:
    vector = encoder.encode(voice(seconds))
    assert encoder.name == "acoustic-functionals-1"
    assert vector.shape == (encoder.width,)
    assert 150 <= encoder.width <= 250
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert np.abs(vector).max() <= 10


@pytest.mark.parametrize("gain", [0.001, 0.1, 3.0])
def test_gain_does_not_matter(encoder: AudioEncoder, gain: float) -> None:
    sound = voice(2)
    assert distance(encoder.encode(sound * np.float32(gain)), encoder.encode(sound)) < 1e-3


def test_offset_does_not_matter(encoder: AudioEncoder) -> None:
    sound = voice(2)
    assert distance(encoder.encode(sound + np.float32(0.2)), encoder.encode(sound)) < 1e-2


def test_silence_around_does_not_matter(encoder: AudioEncoder) -> None:
    sound = voice(2)
    padded = np.concatenate([np.zeros(8000, np.float32), sound, np.zeros(4800, np.float32)])
    assert np.abs(encoder.encode(padded) - encoder.encode(sound)).mean() < 0.05


def test_sample_rate(encoder: AudioEncoder) -> None:
    sound = voice(2)
    faster = signal.resample_poly(sound, 3, 1).astype(np.float32)
    same = np.abs(encoder.encode(faster, 48000) - encoder.encode(sound)).mean()
    wrong = np.abs(encoder.encode(faster, 16000) - encoder.encode(sound)).mean()
    assert same < 0.05 < wrong


@pytest.mark.parametrize("pitch", [80.0, 120.0, 220.0, 350.0])
def test_pitch_is_in_the_vector(encoder: AudioEncoder, pitch: float) -> None:
    """Some element is the median pitch in octaves over 27.5 Hz."""
    octaves = np.log2(pitch / 27.5)
    assert np.abs(encoder.encode(voice(2, pitch)) - octaves).min() < 0.02


def test_glide_direction_matters(encoder: AudioEncoder) -> None:
    up, flat, down = (encoder.encode(voice(2, 150, glide)) for glide in (12, 0, -12))
    # The slope of pitch: 12 semitones over the utterance, opposite signs, none in between.
    slope = np.argmax(np.minimum(up - flat, flat - down))
    assert up[slope] > flat[slope] + 1 > down[slope] + 2


def test_silence_gives_zeros(encoder: AudioEncoder) -> None:
    assert not encoder.encode(np.zeros(RATE, np.float32)).any()
    assert not encoder.encode(np.full(RATE, 0.5, np.float32)).any()


def test_odd_sounds_stay_finite(encoder: AudioEncoder) -> None:
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
            for sound in (noise, click, late, tone, np.sign(noise), train, noise * 1e20, noise * 1e-7):
                vector = encoder.encode(sound.astype(np.float32))
                assert np.isfinite(vector).all()
                assert np.abs(vector).max() <= 10


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.array([0.0, np.nan, np.inf], np.float32), RATE, "2 of 3 samples are NaN or infinite"),
        (np.zeros((100, 2), np.float32), RATE, r"shape \(100, 2\); give mono"),
        (np.zeros(0, np.float32), RATE, "n > 0"),
        (np.zeros(100, np.int16), RATE, "samples are int16"),
        (np.zeros(100, np.float32), 0, "sample rate is 0"),
    ],
)
def test_bad_input_is_refused(encoder: AudioEncoder, samples: FloatArray, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode(samples, rate)


def test_input_is_left_alone(encoder: AudioEncoder) -> None:
    sound = voice(0.5) + np.float32(0.1)
    before = sound.copy()
    encoder.encode(sound)
    np.testing.assert_array_equal(sound, before)


def test_cost(encoder: AudioEncoder) -> None:
    """At most 40 ms of processor time for 3 s; best of ten, since the machine may be busy."""
    sound = voice(3)
    times = []
    for _ in range(10):
        start = time.thread_time()
        encoder.encode(sound)
        times.append(time.thread_time() - start)
    assert min(times) < 0.04
