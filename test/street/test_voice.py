"""Utterance → what its voice tells."""

from __future__ import annotations

import numpy as np
import pytest
from made_events import SECOND, Log, VoiceStub, only, pausing, speaking, taken, utterance

from synctva_ros.street.voice import VoiceStage


@pytest.fixture
def stage() -> VoiceStage:
    return VoiceStage(VoiceStub(), Log())


def test_the_voice_is_the_sound_from_start_to_end_of_speech(stage: VoiceStage) -> None:
    found = only(taken(stage, utterance(0)))
    np.testing.assert_array_equal(found.vector, [sum(range(5, 25))])  # without half a second before and after it
    assert (found.utterance_id, found.end, found.modality, found.encoder) == ("m_0", 2 * SECOND, "audio", "voice-stub")
    assert (found.text, found.is_final, list(found.work)) == ("", True, ["audio"])
    assert found.work["audio"] >= 0.0


def test_what_was_said_so_far_has_a_voice_too(stage: VoiceStage) -> None:
    first, second, last = taken(stage, speaking(0, 0.5), pausing(0, 2.0), utterance(0, 2.0))
    assert [one.vector[0] for one in (first, second, last)] == [sum(range(5, 10)), sum(range(5, 25)), sum(range(5, 25))]
    assert [one.is_final for one in (first, second, last)] == [False, False, True]
    assert stage.encoder.calls == 2  # type: ignore[attr-defined]


def test_who_goes_on_speaking_is_heard_anew(stage: VoiceStage) -> None:
    taken(stage, pausing(0, 1.0), utterance(0, 2.0))
    assert stage.encoder.calls == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(30, np.float32)], ids=["none", "silence"])
def test_without_sound_there_is_nothing_to_go_by(stage: VoiceStage, samples: np.ndarray) -> None:
    found = only(taken(stage, utterance(0, samples=samples)))
    assert (found.vector, found.encoder) == (None, "")
    assert stage.encoder.calls == bool(len(samples))  # type: ignore[attr-defined]
    assert stage.state().level == 0


def test_an_encoder_that_raises_costs_one_utterance_its_voice(stage: VoiceStage) -> None:
    stage.encoder.is_broken = True  # type: ignore[attr-defined]
    found = only(taken(stage, utterance(0)))
    assert (found.vector, found.encoder, found.work, found.is_final) == (None, "", {}, True)
    assert "voice failed on utterance m_0: RuntimeError: broken" in stage.state().sentence
    stage.encoder.is_broken = False  # type: ignore[attr-defined]
    assert only(taken(stage, utterance(1))).vector is not None
    assert stage.state().level == 0


def test_it_is_warmed_up_with_more_than_silence(stage: VoiceStage) -> None:
    heard = []
    stage.encoder.encode = lambda samples, rate: heard.append((samples, rate))  # type: ignore[method-assign]
    stage.warm_up()
    ((samples, rate),) = heard
    assert (len(samples) / rate, samples.dtype, samples.std() > 0.05) == (3.0, np.float32, True)


def test_of_an_utterance_without_sound_nothing_is_computed(stage: VoiceStage) -> None:
    found = only(taken(stage, utterance(0).stripped()))
    assert (found.vector, found.work) == (None, {})
