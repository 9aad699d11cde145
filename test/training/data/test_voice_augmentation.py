"""Distorted recordings and sounds that are no voice: lengths, levels, spectra, and the same from the same seed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy import signal

from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.data import speech_synthesis, voice_augmentation
from synctva_ros.training.data.speech_synthesis import TRAINING_VOICES, espeak_path
from synctva_ros.training.data.voice_augmentation import SIGNAL_TO_NOISE, SPEED, Distortion, NoVoice, noise_of, stretch

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
EFFECTS = ("ROOM", "COLOURED", "NARROW", "NOISY", "BABBLE")


def tone(seconds: float = 1.0, frequency: float = 440.0) -> FloatArray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)


def loudest(sound: FloatArray) -> float:
    """Frequency with the most power [Hz]."""
    frequencies, power = signal.periodogram(sound, SAMPLE_RATE)
    return float(frequencies[power.argmax()])


def power_at(sound: FloatArray, low: float, high: float) -> float:
    """Mean power density between two frequencies [dB]."""
    frequencies, power = signal.welch(sound, SAMPLE_RATE, nperseg=1024)
    return float(10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean() + 1e-20))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Leaves out every effect but the change of speed; tests turn on what they look at."""
    for name in EFFECTS:
        monkeypatch.setattr(voice_augmentation, name, 0.0)
    monkeypatch.setattr(voice_augmentation, "SPEED", 0.0)
    return monkeypatch


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.17])
def test_a_stretched_tone_changes_length_and_pitch(speed: float) -> None:
    stretched = stretch(tone(), speed)
    assert stretched.dtype == np.float32
    assert abs(len(stretched) - SAMPLE_RATE / speed) <= 1
    assert loudest(stretched) == pytest.approx(440 * speed, rel=0.01)


def test_without_a_change_of_speed_sound_stays() -> None:
    np.testing.assert_allclose(stretch(tone(), 1.0), tone(), atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_falls_with_frequency(slope: float) -> None:
    noise = noise_of(10 * SAMPLE_RATE, slope, np.random.default_rng(0))
    assert noise.shape == (10 * SAMPLE_RATE,)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1.0, abs=1e-3)
    # From 500 Hz to 4 kHz there are three octaves of slope times 3 dB each.
    fall = power_at(noise, 450, 550) - power_at(noise, 3600, 4400)
    assert fall == pytest.approx(9.03 * slope, abs=0.8)


class TestDistortion:
    def test_many_distortions_are_sound(self) -> None:
        rng = np.random.default_rng(0)
        sound = tone() * np.float32(0.01)
        before = sound.copy()
        distort = Distortion([tone(0.2, 300.0), tone(3.0, 200.0)], rng)
        made = [distort(sound) for _ in range(60)]
        np.testing.assert_array_equal(sound, before)
        for distorted in made:
            assert distorted.dtype == np.float32
            assert np.isfinite(distorted).all()
            assert SAMPLE_RATE * np.exp(-SPEED) - 1 <= len(distorted) <= SAMPLE_RATE * np.exp(SPEED) + 1
            assert 0.1 < distorted.std() < 10.0  # brought to one level, but for the equaliser
        assert len({len(distorted) for distorted in made}) > 50

    def test_the_same_from_the_same_seed(self) -> None:
        first, second, other = (
            Distortion([tone(3.0, 200.0)], np.random.default_rng(seed))(tone()) for seed in (1, 1, 2)
        )
        assert np.array_equal(first, second)
        assert len(first) != len(other) or not np.array_equal(first, other)

    def test_silence_and_very_short_sound(self) -> None:
        distort = Distortion([np.zeros(100, np.float32)], np.random.default_rng(0))
        for _ in range(20):
            assert np.isfinite(distort(np.zeros(3000, np.float32))).all()
            assert np.isfinite(distort(tone(0.01))).all()

    def test_nothing_but_the_level_changes_without_effects(self, only: pytest.MonkeyPatch) -> None:
        distorted = Distortion([], np.random.default_rng(0))(tone() * np.float32(0.01))
        np.testing.assert_allclose(distorted, tone() * np.sqrt(2), atol=1e-2)

    def test_a_room_reverberates(self, only: pytest.MonkeyPatch) -> None:
        only.setattr(voice_augmentation, "ROOM", 1.0)
        only.setattr(voice_augmentation, "REVERBERATION", (0.4, 0.4))
        sound = np.zeros(SAMPLE_RATE, np.float32)
        sound[1000] = 1.0
        distorted = Distortion([], np.random.default_rng(0))(sound)
        assert len(distorted) == SAMPLE_RATE
        assert np.abs(distorted).argmax() == 1000
        after = np.abs(distorted - distorted[0])
        early, late, gone = (after[1000 + a : 1000 + b].mean() for a, b in ((100, 1600), (3200, 4800), (7000, 9000)))
        assert early > 4 * late > 16 * gone

    def test_a_telephone_has_no_treble(self, only: pytest.MonkeyPatch) -> None:
        only.setattr(voice_augmentation, "COLOURED", 1.0)
        only.setattr(voice_augmentation, "NARROW", 1.0)
        only.setattr(voice_augmentation, "EQUALISER", 0.0)
        noise = noise_of(2 * SAMPLE_RATE, 0.0, np.random.default_rng(1))
        for seed in range(5):
            distorted = Distortion([], np.random.default_rng(seed))(noise)
            middle = power_at(distorted, 500, 2800)
            assert power_at(distorted, 7200, 8000) - middle == pytest.approx(-30, abs=2)
            assert power_at(distorted, 30, 70) - middle == pytest.approx(-20, abs=3)

    @pytest.mark.parametrize("babble", [0.0, 1.0])
    def test_noise_is_as_loud_as_it_should_be(self, only: pytest.MonkeyPatch, babble: float) -> None:
        only.setattr(voice_augmentation, "NOISY", 1.0)
        only.setattr(voice_augmentation, "BABBLE", babble)
        sound = tone()
        clean = sound / sound.std()
        distort = Distortion([noise_of(2 * SAMPLE_RATE, 1.0, np.random.default_rng(2))], np.random.default_rng(0))
        ratios = [-20 * np.log10(np.std(distort(sound) - clean)) for _ in range(20)]
        low, high = SIGNAL_TO_NOISE
        assert low - 0.1 < min(ratios) < low + 10
        assert high - 10 < max(ratios) < high + 0.1


@pytest.fixture(scope="module")
def no_voice() -> NoVoice:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice_augmentation, "MACHINES", 3)
        return NoVoice(np.random.default_rng(0))


@needs_espeak
class TestNoVoice:
    @pytest.mark.parametrize(
        ("machine", "noise", "music"), [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
    )
    def test_every_kind_can_be_heard(
        self, no_voice: NoVoice, monkeypatch: pytest.MonkeyPatch, machine: float, noise: float, music: float
    ) -> None:
        monkeypatch.setattr(voice_augmentation, "MACHINE", machine)
        monkeypatch.setattr(voice_augmentation, "NOISE", noise)
        monkeypatch.setattr(voice_augmentation, "MUSIC", music)
        for _ in range(8):
            sound = no_voice()
            assert sound.dtype == np.float32
            assert sound.ndim == 1
            assert np.isfinite(sound).all()
            assert sound.std() > 1e-3
            assert 0.5 * SAMPLE_RATE < len(sound) < (8 if machine else 3.01) * SAMPLE_RATE

    def test_the_same_from_the_same_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(voice_augmentation, "MACHINES", 1)
        first, second = (NoVoice(np.random.default_rng(3)) for _ in range(2))
        for _ in range(5):
            assert np.array_equal(first(), second())

    def test_only_voices_for_training_are_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        used = []

        def synthesise(text: str, voice: str, speed: int, pitch: int) -> FloatArray:
            used.append(voice)
            return tone()

        monkeypatch.setattr(speech_synthesis, "synthesise", synthesise)
        NoVoice(np.random.default_rng(0))
        assert len(used) == voice_augmentation.MACHINES
        assert set(used) <= set(TRAINING_VOICES)


def test_an_absent_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    espeak_path.cache_clear()
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        NoVoice(np.random.default_rng(0))
    espeak_path.cache_clear()
