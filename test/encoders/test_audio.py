"""The audio encoder with a small network of random weights: any sound in, a centred vector out, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from synctva_ros.encoders.audio import AudioEncoder, as_speech
from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.voice_network import VoiceNetwork, VoiceNetworkConfig
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.weights.files import WeightsError

RATE = 16000
CONFIG = VoiceNetworkConfig(classes=len(EMOTIONS), members=3, width=4, summary=16, hidden=16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = VoiceNetwork(CONFIG)
    # The running means and deviations of a training; without them the spectrogram says next to nothing.
    network(torch.randn(8, RATE), torch.full((8,), RATE), torch.randn(8, CONFIG.functionals))
    folder = tmp_path_factory.mktemp("weights")
    save_encoder(network, folder, "voice-test-3", EMOTIONS, {"unheard_speakers": [["a"], ["b"], ["c"]]})
    return str(folder)


@pytest.fixture(scope="module")
def encoder(weights: str) -> AudioEncoder:
    return AudioEncoder(weights)


def sound_of(seconds: float, rate: int = RATE, pitch: float = 140.0) -> FloatArray:
    """Harmonics up to 2 kHz that swell and glide, the same at every sample rate."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * pitch * (t + 0.02 * np.sin(2 * np.pi * 3 * t))
    tones = sum(np.sin(k * phase) / k for k in range(1, int(2000 / pitch)))
    return np.asarray(0.1 * tones * (0.1 + np.sin(np.pi * 4 * t) ** 2), np.float32)


def distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.abs(a - b).max())


def check(vector: FloatArray | None) -> None:
    assert vector is not None
    assert vector.shape == (len(EMOTIONS),)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert abs(vector.mean()) < 1e-5  # relative to the mean over the classes
    assert vector.std() > 1e-3


def test_what_is_loaded(encoder: AudioEncoder) -> None:
    assert encoder.name == "voice-test-3"
    assert encoder.width == len(EMOTIONS)
    assert encoder.training["unheard_speakers"][1] == ["b"]
    assert not encoder.network.training


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.2, 1.0, 14.99, 15.01, 70.0])
def test_any_length(encoder: AudioEncoder, seconds: float) -> None:
    check(encoder.encode(sound_of(seconds), RATE))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_sample_rate(encoder: AudioEncoder, rate: int) -> None:
    vector, same = encoder.encode(sound_of(1.0, rate), rate), encoder.encode(sound_of(1.0))
    check(vector)
    # How far another voice is away; what lies between 4 and 8 kHz is nothing here, but a filter's edge is heard.
    assert distance(vector, same) < 0.25 * distance(encoder.encode(sound_of(1.0, pitch=400.0)), same)


@pytest.mark.parametrize("gain", [0.001, 0.1, 3.0])
def test_gain_does_not_matter(encoder: AudioEncoder, gain: float) -> None:
    sound = sound_of(1.0)
    assert distance(encoder.encode(sound * np.float32(gain)), encoder.encode(sound)) < 1e-3


def test_offset_does_not_matter(encoder: AudioEncoder) -> None:
    sound = sound_of(1.0)
    assert distance(encoder.encode(sound + np.float32(0.2)), encoder.encode(sound)) < 1e-3


def test_in_silence_there_is_nothing_to_hear(encoder: AudioEncoder) -> None:
    for silence in (np.zeros(RATE), np.full(RATE, 0.5), np.full(70 * RATE, -1e-3), np.ones(1)):
        assert encoder.encode(silence.astype(np.float32)) is None


def test_long_sound_is_heard_in_parts(encoder: AudioEncoder) -> None:
    low, high = sound_of(10.0, pitch=110.0), sound_of(10.0, pitch=320.0)
    both = as_speech(np.concatenate([low, high]), RATE)
    assert both is not None
    halves = [encoder.encode_members(half) for half in np.array_split(both, 2)]
    np.testing.assert_allclose(encoder.encode_members(both), np.mean(halves, axis=0), atol=1e-5)


def test_long_sound_may_be_silent_for_the_most_part(encoder: AudioEncoder) -> None:
    sound = np.zeros(60 * RATE, np.float32)
    sound[: 2 * RATE] = sound_of(2.0)
    check(encoder.encode(sound))


def test_odd_sounds(encoder: AudioEncoder) -> None:
    rng = np.random.default_rng(0)
    noise, click = rng.standard_normal(RATE), np.zeros(RATE)
    click[RATE // 2] = 1.0
    for sound in (noise, click, np.sign(noise), noise * 1e20, noise * 1e-5, np.sin(np.arange(RATE) * 0.05)):
        check(encoder.encode(sound.astype(np.float32)))
        check(encoder.encode(np.asarray(sound)))  # double precision


def test_the_members_are_averaged(encoder: AudioEncoder) -> None:
    sound = sound_of(1.0)
    speech = as_speech(sound, RATE)
    assert speech is not None
    members = encoder.encode_members(speech)
    assert members.shape == (CONFIG.members, len(EMOTIONS))
    assert distance(members[0], members[1]) > 1e-3
    np.testing.assert_allclose(encoder.encode(sound), members.mean(axis=0), atol=1e-6)


def test_the_same_every_time(weights: str, encoder: AudioEncoder) -> None:
    sound = sound_of(1.0)
    first = encoder.encode(sound)
    encoder.encode(sound_of(0.3, pitch=300.0))
    assert np.array_equal(encoder.encode(sound), first)
    assert np.array_equal(AudioEncoder(weights).encode(sound), first)


def test_input_is_left_alone(encoder: AudioEncoder) -> None:
    sound = sound_of(0.5) + np.float32(0.1)
    before = sound.copy()
    encoder.encode(sound)
    np.testing.assert_array_equal(sound, before)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.array([0.0, np.nan, np.inf], np.float32), RATE, "2 of 3 samples are NaN or infinite; check the source"),
        (np.zeros((100, 2), np.float32), RATE, r"shape \(100, 2\); give mono sound \[n\] with n > 0"),
        (np.zeros(0, np.float32), RATE, "n > 0"),
        (np.zeros(100, np.int16), RATE, r"samples are int16; give float32 in \[-1, 1\]"),
        (np.zeros(100, np.float32), 0, "sample rate is 0; give it in Hz"),
        (np.zeros(100, np.float32), -8000, "sample rate is -8000"),
    ],
)
def test_bad_input_is_refused(encoder: AudioEncoder, samples: FloatArray, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"audio encoder: .*{message}"):
        encoder.encode(samples, rate)


def test_weights_for_other_functionals_are_refused(tmp_path: Path) -> None:
    other = VoiceNetwork(VoiceNetworkConfig(len(EMOTIONS), members=1, width=4, summary=8, functionals=99, hidden=8))
    save_encoder(other, tmp_path, "voice-test-4", EMOTIONS, {})
    with pytest.raises(WeightsError, match=r"99 acoustic functionals, here there are \d+: train the encoder"):
        AudioEncoder(str(tmp_path))


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_encoder(FaceNetwork(FaceNetworkConfig(7, width=8, blocks=1)), tmp_path, "face-test-1", EMOTIONS, {})
    with pytest.raises(WeightsError, match="is for 'face-residual', but voice-residual is needed"):
        AudioEncoder(str(tmp_path))
    with pytest.raises(WeightsError, match="is missing: give the name of weights"):
        AudioEncoder(str(tmp_path / "nowhere"))


class TestAsSpeech:
    @pytest.mark.parametrize(("seconds", "rate"), [(0.01, RATE), (0.1, 48000), (0.5, 8000), (3.0, 44100)])
    def test_level_offset_length(self, seconds: float, rate: int) -> None:
        speech = as_speech(sound_of(seconds, rate) + np.float32(0.3), rate)
        assert speech is not None
        assert speech.dtype == np.float32
        assert abs(len(speech) - max(seconds, 0.2) * RATE) <= 1
        heard = speech[: round(seconds * RATE)]
        assert abs(heard.mean()) < 0.05
        assert np.sqrt(np.square(heard).mean()) == pytest.approx(1.0, rel=1e-3)
        assert not speech[round(seconds * RATE) + 1 :].any()

    def test_silence_is_none(self) -> None:
        assert as_speech(np.full(100, 0.2, np.float32), RATE) is None

    def test_what_cannot_be_heard_at_16_khz_is_silence(self) -> None:
        assert as_speech(1e-5 * np.sin(np.arange(48000) * 2.9).astype(np.float32), 48000) is None

    def test_a_tone_keeps_its_pitch(self) -> None:
        tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
        speech = as_speech(tone, 44100)
        assert speech is not None
        frequencies, power = signal.periodogram(speech, RATE)
        assert abs(frequencies[power.argmax()] - 440) < 2
