"""Other speakers, rooms, microphones and noises for a training on few recordings, and sounds that are no voice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from synctva_ros.config import DEMO
from synctva_ros.events import SAMPLE_RATE, FloatArray

#: Speed, pitch and formants change together by up to this share: a taller or a smaller speaker.
SPEED = 0.16
ROOM, COLOURED, NARROW, NOISY, BABBLE = 0.4, 0.7, 0.3, 0.6, 0.3  # how often
REVERBERATION = (0.1, 0.6)  # s until it has fallen by 60 dB
SIGNAL_TO_NOISE = (5.0, 35.0)  # dB
EQUALISER = 3.0  # deviation of six bands [dB]
#: How often a sound without emotion is a synthetic voice, noise, or music; else it is barks and knocks.
MACHINE, NOISE, MUSIC = 0.5, 0.15, 0.2
MACHINES = 150


class Distortion:
    """Makes a recording sound as if someone else had spoken it elsewhere.

    Args:
        others: recordings that speech in the background is mixed of.
        rng: what decides.
        speed: how far speed, pitch and formants move; None: as far as another person's are.
    """

    def __init__(self, others: Sequence[FloatArray], rng: np.random.Generator, speed: float | None = None) -> None:
        self._others = others
        self._rng = rng
        self._speed = SPEED if speed is None else speed

    def __call__(self, sound: FloatArray) -> FloatArray:
        """Distort sound ``[n]`` at 16 kHz; the length changes with the speed."""
        rng = self._rng
        sound = stretch(sound, math.exp(rng.uniform(-self._speed, self._speed)))
        sound = sound / (sound.std() + 1e-6)
        if rng.random() < ROOM:
            sound = self._in_a_room(sound)
        if rng.random() < COLOURED:
            sound = self._coloured(sound)
        if rng.random() < NOISY:
            noise = self._babble(len(sound)) if rng.random() < BABBLE else noise_of(len(sound), rng.uniform(0, 2), rng)
            sound = sound + noise * sound.std() * 10 ** (-rng.uniform(*SIGNAL_TO_NOISE) / 20)
        return np.asarray(sound, np.float32)

    def _in_a_room(self, sound: FloatArray) -> FloatArray:
        """Convolve with noise that decays; direct sound and echoes stand in a random proportion."""
        rng = self._rng
        n = int(SAMPLE_RATE * rng.uniform(*REVERBERATION))
        response = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
        response[:20] = 0.0
        response *= rng.uniform(0.05, 0.6) / np.sqrt(np.square(response).sum() + 1e-9)
        response[0] = 1.0
        size = 1 << (len(sound) + n - 1).bit_length()
        wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)
        return np.asarray(wet[: len(sound)], np.float32)

    def _coloured(self, sound: FloatArray) -> FloatArray:
        """Six bands of an equaliser, and often a telephone's or a small microphone's limits."""
        rng = self._rng
        frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
        gain = equaliser(frequency, rng)
        if rng.random() < NARROW:
            gain -= 30 * (frequency > rng.uniform(3000, 7000))
        if rng.random() < NARROW:
            gain -= 20 * (frequency < rng.uniform(80, 350))
        return np.fft.irfft(np.fft.rfft(sound) * 10 ** (gain / 20), len(sound)).astype(np.float32)

    def _babble(self, n: int) -> FloatArray:
        babble = np.zeros(n, np.float32)
        for _ in range(4):
            voice = self._others[int(self._rng.integers(len(self._others)))]
            first = int(self._rng.integers(0, max(1, len(voice) - n)))
            part = voice[first : first + n]
            babble[: len(part)] += part
        return np.asarray(babble / (babble.std() + 1e-6), np.float32)


class NoVoice:
    """Sounds that express no emotion of anyone: synthetic voices, noise, music, barks and knocks.

    Synthetic voices (a television, another robot) sound like emotions to a network that knows actors only.

    Args:
        rng: what decides.

    Raises:
        RuntimeError: eSpeak NG, which makes the synthetic voices, is missing.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        from synctva_ros.training.data import speech_synthesis as synthesis

        sentences = (DEMO / "sentences.txt").read_text(encoding="utf-8").splitlines()
        self._rng = rng
        self._machines = []
        for _ in range(MACHINES):
            samples = synthesis.synthesise(
                str(rng.choice(sentences)),
                str(rng.choice(synthesis.TRAINING_VOICES)),
                int(rng.integers(*synthesis.SPEEDS)),
                int(rng.integers(*synthesis.PITCHES)),
            )
            begin, end = synthesis.speech_bounds(samples)
            self._machines.append(samples[begin:end].astype(np.float32))

    def __call__(self) -> FloatArray:
        """One such sound ``[n]`` at 16 kHz, 0.6 to 3 s long."""
        rng = self._rng
        kind, n = rng.random(), int(SAMPLE_RATE * rng.uniform(0.6, 3))
        if kind < MACHINE:
            return stretch(self._machines[rng.integers(len(self._machines))], math.exp(rng.uniform(-0.1, 0.1)))
        if kind < MACHINE + NOISE:
            return noise_of(n, rng.uniform(0, 2.5), rng)
        if kind < MACHINE + NOISE + MUSIC:
            return self._chords(n)
        return self._barks(n)

    def _chords(self, n: int) -> FloatArray:
        rng, time = self._rng, np.arange(n) / SAMPLE_RATE
        music = 0.001 * rng.standard_normal(n)
        for first in np.arange(0, n, int(SAMPLE_RATE * rng.uniform(0.15, 0.6))):
            since = time[first:] - time[first]
            for _ in range(rng.integers(1, 5)):
                phase = 2 * np.pi * 110 * 2 ** (rng.integers(0, 37) / 12) * since
                tone = sum(np.sin(harmonic * phase) / harmonic**1.5 for harmonic in range(1, 5))
                music[first:] += np.exp(-since * rng.uniform(1, 8)) * tone
        return music.astype(np.float32)

    def _barks(self, n: int) -> FloatArray:
        rng, time = self._rng, np.arange(n) / SAMPLE_RATE
        barks = 0.01 * rng.standard_normal(n)
        for _ in range(rng.integers(1, 5)):
            first = int(rng.integers(0, max(1, n - 3000)))
            length = min(int(rng.integers(800, 4000)), n - first)
            bark = noise_of(length, rng.uniform(0, 1.5), rng) * np.hanning(length)
            if rng.random() < 0.5:
                bark = bark * np.sign(np.sin(2 * np.pi * rng.uniform(200, 700) * time[:length]))
            barks[first : first + length] += bark
        return barks.astype(np.float32)


def stretch(sound: FloatArray, speed: float) -> FloatArray:
    """Play sound ``[n]`` at another speed, as a tape would: pitch and formants move along."""
    n = int(len(sound) / speed)
    return np.interp(np.linspace(0, len(sound) - 1, n), np.arange(len(sound)), sound).astype(np.float32)


def equaliser(frequency: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The gain [dB] of six bands, drawn anew, at frequencies [Hz]."""
    bands = np.log(np.geomspace(60, 8000, 6))
    return np.asarray(np.interp(np.log(np.maximum(frequency, 20)), bands, rng.normal(0, EQUALISER, 6)), np.float32)


def noise_of(n: int, slope: float, rng: np.random.Generator) -> FloatArray:
    """Noise ``[n]`` with deviation 1 whose power falls with frequency to this power: 0 is white, 1 pink, 2 brown."""
    frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n)) * np.maximum(frequency, 30) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, n)
    return np.asarray(noise / (noise.std() + 1e-9), np.float32)
