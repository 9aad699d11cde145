"""Conversations in rooms, made without end of recordings of single voices, with the truth beside them.

Who learns to find turns needs to know to the moment who speaks, and in no corpus of real talk is that so. Half of the
gaps between turns are shorter than 0.2 s, as in real talk (Stivers et al. 2009, doi 10.1073/pnas.0903616106).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.voice_augmentation import equaliser, noise_of, stretch

#: Each person is three: played slower and faster, pitch and formants move along, and somebody else speaks.
SPEEDS = (0.9, 1.0, 1.1)
#: How often speed (and with it pitch) and level sway within a recording, and how far (deviation of the logarithm at
#: points 0.4 s apart): who is lively is still one person.
SWAY, SPEED_SWAY, LEVEL_SWAY = 0.5, 0.05, 0.25
#: Level of a voice in front (root mean square), and its spread over persons and turns [dB].
LEVEL, PERSONS, TURNS = 0.05, (-8.0, 4.0), 1.5
#: How often a recording is cut to a word of 0.3 to 0.9 s.
WORDS = 0.12
#: How often a turn has one recording more, so that neither its length nor another tone means somebody else, and the
#: pauses between them [s].
LONG, PAUSES = 0.5, (0.0, 0.45)
#: Longest overlap and longest gap of those that are quick [s].
QUICK = (-0.45, 0.2)
#: How often all have long stopped talking [s].
LULL, LULLS = 0.06, (1.5, 5.0)
#: How many people are in front.
PEOPLE = (0.12, 0.4, 0.36, 0.12)
#: How often there is noise, and how often people talk in the background, and how far below a voice in front [dB].
NOISE, NOISES = 0.35, (2.0, 30.0)
BEHIND, BEHINDS = 0.4, (8.0, 26.0)
CLICKS, HUM, COLOURED, NARROW, TELEPHONE = 0.15, 0.1, 0.5, 0.2, 0.08
#: What a telephone lets through [Hz], and the curve by which it rounds (ITU-T G.711).
BAND, MU = (300.0, 3400.0), 255.0
#: Gain of the microphone [dB].
GAIN = (-18.0, 12.0)


@dataclass(frozen=True, eq=False)
class Room:
    """What is heard, and the truth in frames.

    Attributes:
        sound: ``[n]`` at 16 kHz.
        count: how many people in front speak ``[frames]``.
        change: whether another person than the last one begins here ``[frames]``.
        voice: number of the newest voice, a person at a speed, -1 before the first ``[frames]``.
    """

    sound: FloatArray
    count: IntArray
    change: FloatArray
    voice: IntArray


class Rooms:
    """Makes rooms.

    Args:
        people: recordings ``[n]`` at 16 kHz by person; a person is ``corpus/name``, and those of one corpus meet.
        rng: what decides.
        seconds: length of a room.
        frame: samples of a frame of the truth.
    """

    def __init__(
        self,
        people: Mapping[str, Sequence[FloatArray]],
        rng: np.random.Generator,
        seconds: float = 20.0,
        frame: int = 640,
    ) -> None:
        self._people, self._rng, self._frame = people, rng, frame
        self._n = round(seconds * SAMPLE_RATE) // frame * frame
        self._names = sorted(people)
        self._corpora: dict[str, list[str]] = {}
        for name in self._names:
            self._corpora.setdefault(name.partition("/")[0], []).append(name)
        share = np.sqrt([len(names) for names in self._corpora.values()])
        self._share = share / share.sum()
        #: Number of each voice.
        self.voices = {voice: n for n, voice in enumerate((name, s) for name in self._names for s in SPEEDS)}

    def __call__(self) -> Room:
        """Make one."""
        rng, n = self._rng, self._n
        pool = list(self._corpora.values())[rng.choice(len(self._corpora), p=self._share)]
        if rng.random() < 0.2:  # of several languages
            pool = self._names
        size = min(1 + int(rng.choice(len(PEOPLE), p=PEOPLE)), len(pool))
        voices = [(pool[i], SPEEDS[rng.integers(len(SPEEDS))]) for i in rng.permutation(len(pool))[:size]]
        room = self._talk(voices)
        sound = room.sound
        kind = rng.random()
        if kind < NOISE:
            sound += noise_of(n, rng.uniform(0, 2.2), rng) * LEVEL * _gain(-rng.uniform(*NOISES))
        elif kind < NOISE + BEHIND:
            sound += self._people_behind({name for name, _ in voices}) * LEVEL * _gain(-rng.uniform(*BEHINDS))
            if rng.random() < 0.3:
                sound += noise_of(n, rng.uniform(0, 2.2), rng) * LEVEL * _gain(-rng.uniform(15, 35))
        if rng.random() < CLICKS:
            self._click(sound)
        if rng.random() < HUM:
            cycles = rng.choice([50, 60, 100, 120]) * np.arange(n) / SAMPLE_RATE
            sound += (LEVEL * _gain(-rng.uniform(5, 30)) * np.sin(2 * np.pi * cycles)).astype(np.float32)
        sound += rng.standard_normal(n).astype(np.float32) * _gain(-rng.uniform(60, 90))
        sound = self._microphone(sound)
        return Room(np.clip(sound * _gain(rng.uniform(*GAIN)), -1.0, 1.0), room.count, room.change, room.voice)

    def _talk(self, voices: Sequence[tuple[str, float]]) -> Room:
        """People who take turns, in an echo."""
        rng, n, frame = self._rng, self._n, self._frame
        sound, frames = np.zeros(n, np.float32), n // frame
        count, newest, change = np.zeros(frames, np.int64), np.full(frames, -1), np.zeros(frames, np.float32)
        gains = [_gain(rng.uniform(*PERSONS)) for _ in voices]
        quick, loose, again = rng.uniform(0.2, 0.8), rng.uniform(0.6, 2.5), rng.uniform(0.0, 0.35)
        at, last, each_echoes = rng.exponential(1.0) + 0.1, -1, rng.random() < 0.3
        while (first := int(at * SAMPLE_RATE)) < n - 2000:
            others = [number for number in range(len(voices)) if number != last]
            goes_on = last >= 0 and (not others or rng.random() < again)
            speaker = last if goes_on else int(rng.choice(others))
            piece = self._turn(*voices[speaker]) * LEVEL * gains[speaker] * _gain(rng.normal(0.0, TURNS))
            if each_echoes:
                piece = _convolve(piece, self._echo())
            length = len(piece) / SAMPLE_RATE
            piece = piece[: n - first]
            sound[first : first + len(piece)] += piece
            begin, end = first // frame, max(first // frame + 1, (first + len(piece)) // frame)
            count[begin:end] += 1
            newest[begin:end] = self.voices[voices[speaker]]
            change[begin] = max(change[begin], float(last >= 0 and speaker != last))
            gap = rng.uniform(*QUICK) if rng.random() < quick else rng.uniform(0.2, loose)
            if rng.random() < LULL:
                gap = rng.uniform(*LULLS)
            at, last = at + length + (gap if length > 1.0 else abs(gap)), speaker
        return Room(sound if each_echoes else _convolve(sound, self._echo()), count, change, newest)

    def _turn(self, name: str, speed: float) -> FloatArray:
        """What a person says: one recording, or several with short pauses."""
        rng = self._rng
        parts = [self._recording(name, speed)]
        while rng.random() < LONG and len(parts) < 5:  # of which two are pauses
            pause = np.zeros(round(SAMPLE_RATE * rng.uniform(*PAUSES)), np.float32)
            parts += [pause, self._recording(name, speed) * _gain(rng.normal(0.0, TURNS))]
        return np.concatenate(parts)

    def _recording(self, name: str, speed: float) -> FloatArray:
        """A recording of a person, or a word of it, with deviation 1."""
        rng = self._rng
        recordings = self._people[name]
        sound = recordings[int(rng.integers(len(recordings)))]
        if rng.random() < WORDS:
            length = round(SAMPLE_RATE * rng.uniform(0.3, 0.9))
            first = int(rng.integers(0, max(1, len(sound) - length)))
            sound = sound[first : first + length]
            edge = np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1])
            sound = sound * np.minimum(edge / 160, 1.0).astype(np.float32)
        sound = stretch(sound, speed * math.exp(rng.uniform(-0.03, 0.03)))
        if rng.random() < SWAY:
            sound = self._swaying(sound)
        return np.asarray(sound / (np.sqrt(np.mean(np.square(sound))) + 1e-6), np.float32)

    def _swaying(self, sound: FloatArray) -> FloatArray:
        """The same words with another melody and other stresses."""
        rng, n = self._rng, len(sound)
        knots = np.linspace(0, n - 1, max(3, round(2.5 * n / SAMPLE_RATE) + 1))
        pace, level = (
            np.exp(np.interp(np.arange(n), knots, rng.normal(0.0, deviation, len(knots))))
            for deviation in (SPEED_SWAY, LEVEL_SWAY)
        )
        when = np.cumsum(pace)
        return np.asarray(np.interp(when * (n - 1) / when[-1], np.arange(n), sound * level), np.float32)

    def _people_behind(self, in_front: set[str]) -> FloatArray:
        """Others, with deviation 1, who talk without or with pauses, further away."""
        rng, n = self._rng, self._n
        others = [name for name in self._names if name not in in_front]
        behind = np.zeros(n, np.float32)
        for _ in range(int(rng.integers(1, 5)) if others else 0):
            name, speed = others[rng.integers(len(others))], SPEEDS[rng.integers(len(SPEEDS))]
            at, pauses = 0, rng.random() < 0.5
            while at < n:
                sound = self._recording(name, speed)[: n - at]
                behind[at : at + len(sound)] += sound
                at += len(sound) + (round(SAMPLE_RATE * rng.exponential(0.7)) if pauses else 0)
        behind = _convolve(behind, self._echo())
        return np.asarray(behind / (behind.std() + 1e-6), np.float32)

    def _echo(self) -> FloatArray:
        rng = self._rng
        n = round(SAMPLE_RATE * rng.uniform(0.1, 0.55))
        response = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
        response[:16] = 0.0
        response *= rng.uniform(0.05, 0.5) / np.sqrt(np.square(response).sum() + 1e-9)
        response[0] = 1.0
        return response.astype(np.float32)

    def _click(self, sound: FloatArray) -> None:
        """Add clicks, claps and knocks."""
        rng = self._rng
        for _ in range(int(rng.integers(1, 12))):
            length = int(rng.integers(100, 2500))
            first = int(rng.integers(0, len(sound) - length))
            fall = np.exp(-np.arange(length) / length * rng.uniform(2, 8)).astype(np.float32)
            click = noise_of(length, rng.uniform(0, 2), rng) * fall
            sound[first : first + length] += click * LEVEL * _gain(rng.uniform(-15, 8))

    def _microphone(self, sound: FloatArray) -> FloatArray:
        """What the way to the robot does: an equaliser, the limits of a small microphone, or a telephone."""
        rng = self._rng
        frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
        gain = equaliser(frequency, rng) if rng.random() < COLOURED else np.zeros(len(frequency))
        if rng.random() < NARROW:
            gain -= 30.0 * (frequency > rng.uniform(3200, 7000)) * (rng.random() < 0.5)
            gain -= 20.0 * (frequency < rng.uniform(60, 320))
        telephone = rng.random() < TELEPHONE
        if telephone:
            gain -= 70.0 * ((frequency < BAND[0]) | (frequency > BAND[1]))
        spectrum = fft.rfft(np.asarray(sound, np.float32)) * np.asarray(10 ** (gain / 20), np.float32)
        sound = np.asarray(fft.irfft(spectrum, len(sound)), np.float32)
        if telephone:
            loudest = np.abs(sound).max() + 1e-6
            rounded = np.round(128 * np.sign(sound) * np.log1p(MU * np.abs(sound) / loudest) / np.log1p(MU)) / 128
            sound = np.sign(rounded) * np.expm1(np.abs(rounded) * np.log1p(MU)) / MU * loudest
        return np.asarray(sound, np.float32)


def _gain(decibel: float) -> float:
    return float(10 ** (decibel / 20))


def _convolve(sound: FloatArray, response: FloatArray) -> FloatArray:
    return np.asarray(signal.oaconvolve(sound, response)[: len(sound)], np.float32)
