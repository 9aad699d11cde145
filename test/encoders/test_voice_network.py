"""The network for voices and its parts: shapes, gain, and that sounds of a batch do not disturb each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from synctva_ros.encoders.residual import ResidualBlock
from synctva_ros.encoders.voice_network import (
    BANDS,
    LogMel,
    ProsodyNetwork,
    SpectrumNetwork,
    VoiceMember,
    VoiceNetwork,
    VoiceNetworkConfig,
)
from synctva_ros.events import SAMPLE_RATE

CONFIG = VoiceNetworkConfig(classes=7, members=2, width=4, summary=16, functionals=12, hidden=8)
HOP = 160


def batch_of(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise whose colour and loudness change, in rows that are filled up with zeros."""
    generator = torch.Generator().manual_seed(seed)
    sound = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(sound, lengths, strict=True):
        noise = torch.randn(length, generator=generator)
        swell = 1.0 + 0.9 * torch.sin(torch.arange(length) * (6.28 * 3 / SAMPLE_RATE))
        row[:length] = (0.7 * noise + 0.7 * noise.roll(1)) * swell
    return sound, torch.tensor(lengths)


@pytest.fixture(scope="module")
def network() -> VoiceNetwork:
    """Weights at random, but running means and deviations as a training leaves them."""
    torch.manual_seed(0)
    made = VoiceNetwork(CONFIG)
    for seed in range(20):
        sound, length = batch_of([12000] * 4, seed)
        made(sound, length, torch.randn(4, CONFIG.functionals))
    return made.eval()


def spectrum_of(network: VoiceNetwork) -> SpectrumNetwork:
    member = network.members[0]
    assert isinstance(member, VoiceMember)
    return member.spectrum


class TestLogMel:
    @given(st.lists(st.integers(1, 12000), min_size=1, max_size=4))
    @settings(max_examples=25, deadline=None)
    def test_each_row_as_if_it_were_alone(self, lengths: list[int]) -> None:
        log_mel = LogMel()
        sound, length = batch_of(lengths)
        mel, there = log_mel(sound, length)
        frames = max(lengths) // HOP + 1
        assert mel.shape == (len(lengths), 1, BANDS, frames)
        assert there.shape == (len(lengths), frames)
        assert torch.equal(there.sum(dim=1), length // HOP + 1)
        for row, n in enumerate(lengths):
            count = n // HOP + 1
            assert there[row, :count].all()
            assert not mel[row, ..., count:].any()
            assert abs(mel[row, ..., :count].mean()) < 1e-4
            alone, _ = log_mel(sound[row : row + 1, :n], length[row : row + 1])
            torch.testing.assert_close(mel[row : row + 1, ..., :count], alone, atol=1e-3, rtol=0.0)

    @pytest.mark.parametrize("gain", [0.1, 10.0, 1000.0])
    def test_gain_does_not_matter(self, gain: float) -> None:
        sound, length = batch_of([8000, 5000])
        log_mel = LogMel()
        torch.testing.assert_close(log_mel(gain * sound, length)[0], log_mel(sound, length)[0], atol=1e-3, rtol=0.0)

    def test_units_of_10_decibel(self) -> None:
        sound, length = batch_of([16000])
        louder = torch.cat([sound, 10.0 * sound], dim=1)
        mel = LogMel()(louder, 2 * length)[0][0, 0]
        assert (mel[:, 110:190].mean() - mel[:, 10:90].mean()).item() == pytest.approx(2.0, abs=0.01)

    def test_silence_is_finite(self) -> None:
        mel, _ = LogMel()(torch.zeros(1, 1600), torch.tensor([1600]))
        assert torch.equal(mel, torch.zeros_like(mel))

    def test_weak_noise_is_cut_off(self) -> None:
        """Cells lie within 80 dB of the loudest."""
        click = torch.zeros(1, 8000)
        click[0, 4000] = 1.0
        mel = LogMel()(click, torch.tensor([8000]))[0]
        assert (mel.max() - mel.min()).item() == pytest.approx(8.0, abs=1e-3)

    @pytest.mark.parametrize("frequency", [120.0, 440.0, 1500.0, 6000.0])
    def test_a_tone_is_in_its_band(self, frequency: float) -> None:
        tone = torch.sin(torch.arange(SAMPLE_RATE) * (2 * torch.pi * frequency / SAMPLE_RATE)).unsqueeze(0)
        band = int(LogMel()(tone, torch.tensor([SAMPLE_RATE]))[0][0, 0, :, 50].argmax())
        lowest, highest = 77.75, 2787.4  # mel of 50 and of 7600 Hz
        wanted = 2595 * torch.log10(torch.tensor(1 + frequency / 700)).item()
        # A narrow band lies between two bins of the spectrum.
        assert abs((wanted - lowest) / (highest - lowest) * (BANDS + 1) - 1 - band) <= 1.0

    def test_no_band_is_deaf(self) -> None:
        assert (LogMel().filters.sum(dim=1) > 0.0).all()


class TestResidualBlock:
    @pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (64, 13)])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_shape(self, size: tuple[int, int], stride: int) -> None:
        images = ResidualBlock(3, 5, stride, project=True).eval()(torch.randn(2, 3, *size))
        assert images.shape == (2, 5, *(-(-side // stride) for side in size))
        assert (images >= 0.0).all()

    def test_without_a_projection_the_input_is_added(self) -> None:
        block = ResidualBlock(3, 3, 1, project=False).eval()
        last = block.body[-1]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)
        images = torch.randn(2, 3, 6, 6)
        assert torch.equal(block(images), images.relu())


class TestSpectrumNetwork:
    def test_padding_does_not_change_the_answer(self, network: VoiceNetwork) -> None:
        """Up to what the convolutions see across the end, which is little of an utterance."""
        lengths = [8000, 32000, 12345, 24000]
        sound, length = batch_of(lengths)
        spectrum = spectrum_of(network)
        with torch.inference_mode():
            together = spectrum(*network.log_mel(sound, length)).log_softmax(dim=-1)
            alone = torch.cat(
                [
                    spectrum(*network.log_mel(row[:n].unsqueeze(0), torch.tensor([n]))).log_softmax(dim=-1)
                    for row, n in zip(sound, lengths, strict=True)
                ]
            )
        torch.testing.assert_close(together[1], alone[1], atol=1e-4, rtol=0.0)  # the longest
        assert (together - alone).abs().max() < 0.05

    @given(frames=st.integers(1, 90), more=st.integers(0, 60))
    @settings(max_examples=15, deadline=None)
    def test_what_lies_far_behind_the_end_is_not_read(self, network: VoiceNetwork, frames: int, more: int) -> None:
        generator = torch.Generator().manual_seed(frames)
        mel = torch.randn(1, 1, BANDS, frames + 120 + more, generator=generator)
        there = (torch.arange(mel.shape[-1]) < frames).unsqueeze(0)
        other = mel.clone()
        other[..., frames + 100 :] = 50.0
        with torch.inference_mode():
            spectrum = spectrum_of(network)
            torch.testing.assert_close(spectrum(mel, there), spectrum(other, there), atol=1e-4, rtol=0.0)
            assert torch.isfinite(spectrum(mel[..., :frames], there[:, :frames])).all()

    def test_rows_do_not_disturb_each_other(self, network: VoiceNetwork) -> None:
        sound, length = batch_of([9000, 9000, 9000])
        mel, there = network.log_mel(sound, length)
        spectrum = spectrum_of(network)
        with torch.inference_mode():
            torch.testing.assert_close(spectrum(mel, there)[1:2], spectrum(mel[1:2], there[1:2]), atol=1e-4, rtol=1e-4)

    def test_it_distinguishes_sounds(self, network: VoiceNetwork) -> None:
        sound, length = batch_of([9000])
        tone = torch.sin(torch.arange(9000) * 0.2).unsqueeze(0)
        spectrum = spectrum_of(network)
        with torch.inference_mode():
            noise, other = (spectrum(*network.log_mel(row, length)) for row in (sound, tone))
        assert (noise - other).abs().max() > 0.05


class TestProsodyNetwork:
    def test_it_is_fitted_to_the_training_clips(self) -> None:
        prosody = ProsodyNetwork(CONFIG).eval()
        clips = torch.randn(200, CONFIG.functionals) * 5.0 + 3.0
        clips[:, 0] = 7.0  # the same in all clips
        prosody.fit(clips)
        torch.testing.assert_close(prosody.mean, clips.mean(dim=0))
        torch.testing.assert_close(prosody.deviation[1:], clips[:, 1:].std(dim=0, correction=0))
        assert prosody.deviation[0].item() == pytest.approx(1e-3)
        logits = prosody(clips)
        assert logits.shape == (200, CONFIG.classes)
        assert torch.isfinite(logits).all()

    def test_outliers_are_bounded(self) -> None:
        prosody = ProsodyNetwork(CONFIG).eval()
        far = torch.full((1, CONFIG.functionals), 5.0)
        assert torch.equal(prosody(far), prosody(100.0 * far))
        assert not torch.equal(prosody(far), prosody(0.5 * far))


class TestVoiceNetwork:
    def test_each_member_answers_for_each_row(self, network: VoiceNetwork) -> None:
        sound, length = batch_of([3000, 16000, 400])
        with torch.inference_mode():
            answers = network(sound, length, torch.randn(3, CONFIG.functionals))
        assert answers.shape == (CONFIG.members, 3, CONFIG.classes)
        assert (answers.exp().sum(dim=-1) <= 1.0 + 1e-5).all()  # a geometric mean of two distributions
        assert (answers[0] - answers[1]).abs().max() > 1e-3

    def test_a_member_is_the_mean_of_its_two_networks(self, network: VoiceNetwork) -> None:
        sound, length = batch_of([5000, 6000])
        functionals = torch.randn(2, CONFIG.functionals)
        mel, there = network.log_mel(sound, length)
        member = network.members[1]
        assert isinstance(member, VoiceMember)
        with torch.inference_mode():
            parts = [member.spectrum(mel, there), member.prosody(functionals)]
            mean = sum(logits.log_softmax(dim=-1) for logits in parts) / 2
            torch.testing.assert_close(member(mel, there, functionals), mean)

    def test_what_can_be_computed_is_not_stored(self, network: VoiceNetwork) -> None:
        assert not [name for name in network.state_dict() if name.startswith("log_mel")]

    def test_the_shipped_size_is_small(self) -> None:
        """Half precision: under 5 MB."""
        assert sum(tensor.numel() for tensor in VoiceNetwork(VoiceNetworkConfig(7)).state_dict().values()) < 2.5e6
