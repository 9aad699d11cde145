"""Rooms: whether the truth is that of the sound, of voices that are tones of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.data import rooms as module
from synctva_ros.training.data.rooms import SPEEDS, Room, Rooms

FRAME = 640


def tone(hertz: float, seconds: float = 1.5) -> FloatArray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


@pytest.fixture
def people() -> dict[str, list[FloatArray]]:
    return {f"{corpus}/{n}": [tone(300 + 150 * n)] * 2 for corpus in ("a", "b") for n in range(4)}


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms without echoes, noise and people behind."""
    for name in ("NOISE", "BEHIND", "CLICKS", "HUM", "COLOURED", "NARROW", "TELEPHONE", "SWAY", "WORDS", "LONG"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(Rooms, "_echo", lambda self: np.eye(1, 8, dtype=np.float32)[0])
    monkeypatch.setattr(module, "GAIN", (0.0, 0.0))
    monkeypatch.setattr(module, "PERSONS", (0.0, 0.0))


def test_the_truth_fits_the_sound(people: dict[str, list[FloatArray]], dry: None) -> None:
    made = Rooms(people, np.random.default_rng(0), 12.0, FRAME)
    overlaps = changes = 0
    for _ in range(20):
        room = made()
        assert room.sound.shape == (12 * SAMPLE_RATE,)
        frames = len(room.sound) // FRAME
        assert room.count.shape == room.change.shape == room.voice.shape == (frames,)
        level = np.sqrt(np.mean(np.square(room.sound.reshape(frames, FRAME)), axis=1))
        # Turns begin and end within a frame, so the frames at the edges are between.
        inner = np.convolve(room.count == 0, np.ones(3), "same") == 3
        assert level[inner].max(initial=0.0) < 0.01
        spoken = np.convolve(room.count > 0, np.ones(3), "same") == 3
        assert np.median(level[spoken]) > 0.02
        overlaps += int((room.count > 1).sum())
        changes += int(room.change.sum())
        for at in np.flatnonzero(room.change):
            assert room.count[at] > 0
            before = room.voice[:at]
            assert before[before >= 0][-1] != room.voice[at]
    assert overlaps > 20
    assert changes > 40


def test_a_voice_is_a_person_at_a_speed(people: dict[str, list[FloatArray]], dry: None) -> None:
    made = Rooms(people, np.random.default_rng(1), 8.0, FRAME)
    assert len(made.voices) == len(people) * len(SPEEDS)
    names = {number: voice for voice, number in made.voices.items()}
    heard = set()
    for _ in range(10):
        room = made()
        for at in np.flatnonzero(np.convolve(room.count == 1, np.ones(5), "same") == 5)[::7]:
            if len(set(room.voice[at - 2 : at + 3])) > 1:
                continue
            name, speed = names[room.voice[at]]
            piece = room.sound[at * FRAME - FRAME : (at + 1) * FRAME] * np.hanning(2 * FRAME)
            pitch = np.abs(np.fft.rfft(piece, 1 << 15)).argmax() * SAMPLE_RATE / (1 << 15)
            wanted = (300 + 150 * int(name.partition("/")[2])) * speed
            assert pitch == pytest.approx(wanted, rel=0.03)
            heard.add((name, speed))
    assert len(heard) > 10


def test_people_behind_are_not_in_the_truth(
    people: dict[str, list[FloatArray]], dry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEHIND", 1.0)
    monkeypatch.setattr(module, "BEHINDS", (12.0, 12.0))
    room = Rooms(people, np.random.default_rng(2), 20.0, FRAME)()
    silent = np.convolve(room.count == 0, np.ones(3), "same") == 3
    level = np.sqrt(np.mean(np.square(room.sound.reshape(-1, FRAME)), axis=1))
    assert silent.any()
    assert level[silent].mean() > 0.003


def test_the_same_generator_makes_the_same_rooms(people: dict[str, list[FloatArray]]) -> None:
    one, other = (Rooms(people, np.random.default_rng(3), 6.0, FRAME) for _ in range(2))
    for _ in range(3):
        first, second = one(), other()
        np.testing.assert_array_equal(first.sound, second.sound)
        np.testing.assert_array_equal(first.change, second.change)
    assert np.abs(first.sound).max() <= 1.0


def test_a_turn_of_several_recordings_is_one_turn(
    people: dict[str, list[FloatArray]], dry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONG", 0.999)
    monkeypatch.setattr(module, "PAUSES", (0.2, 0.2))
    room = Rooms(people, np.random.default_rng(4), 30.0, FRAME)()
    begins = np.flatnonzero(np.diff(np.r_[0, room.count > 0].astype(int)) == 1)
    ends = np.flatnonzero(np.diff(np.r_[room.count > 0, 0].astype(int)) == -1)
    # Three recordings of 1.5 s with two pauses, at speeds of 0.9 to 1.1; some overlap, and the last is cut off.
    assert np.median((ends - begins) * FRAME / SAMPLE_RATE) > 4.2


def test_who_is_lively_takes_as_long(
    people: dict[str, list[FloatArray]], dry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [room.count for room in _some(people)]
    monkeypatch.setattr(module, "SPEED_SWAY", 0.2)
    monkeypatch.setattr(Rooms, "_swaying", _swaying_with_a_rng_of_its_own(Rooms._swaying))
    monkeypatch.setattr(module, "SWAY", 1.0)
    lively = _some(people)
    for count, room in zip(plain, lively, strict=True):
        np.testing.assert_array_equal(count, room.count)
    alone = np.convolve(lively[0].count == 1, np.ones(9), "same") == 9
    pitches = [
        np.abs(np.fft.rfft(lively[0].sound[at * FRAME : at * FRAME + 3000], 1 << 15)).argmax()
        for at in np.flatnonzero(alone)
    ]
    assert np.std(pitches) / np.mean(pitches) > 0.05


def _some(people: dict[str, list[FloatArray]]) -> list[Room]:
    made = Rooms({"a/0": people["a/0"], "a/1": people["a/0"]}, np.random.default_rng(5), 8.0, FRAME)
    return [made() for _ in range(3)]


def _swaying_with_a_rng_of_its_own(
    sway: Callable[[Rooms, FloatArray], FloatArray],
) -> Callable[[Rooms, FloatArray], FloatArray]:
    """Otherwise what it draws would move everything after it."""

    def swaying(rooms: Rooms, sound: FloatArray) -> FloatArray:
        kept, rooms._rng = rooms._rng, np.random.default_rng(6)
        swayed = sway(rooms, sound)
        rooms._rng = kept
        return swayed

    return swaying


def test_a_telephone_lets_only_its_band_through(
    people: dict[str, list[FloatArray]], dry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELEPHONE", 1.0)
    monkeypatch.setattr(module, "NOISE", 1.0)
    monkeypatch.setattr(module, "NOISES", (0.0, 0.0))
    room = Rooms(people, np.random.default_rng(7), 10.0, FRAME)()
    power = np.square(np.abs(np.fft.rfft(room.sound)))
    frequency = np.fft.rfftfreq(len(room.sound), 1 / SAMPLE_RATE)
    inside = (frequency > 400) & (frequency < 3300)
    assert power[(frequency > 3700) | (frequency < 200)].mean() < 1e-3 * power[inside].mean()
