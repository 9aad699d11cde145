"""Utterance → what its voice tells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_events import SECOND, Log, VoiceStub, only, pausing, speaking, taken, utterance

from synctva_ros.street.voice import MOST_PEOPLE, MOST_VOICES, VoiceStage


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


class Personal(VoiceStub):
    """An encoder that tells how many turns of the person it knows, and remembers the first sample of each."""

    name = "personal-stub"
    width = 1

    def describe(self, samples, sample_rate):
        return None if not samples.any() else samples[:1].copy()

    def stranger(self):
        return []

    def judge(self, told, usual):
        return np.array([float(len(usual))], np.float32)

    def remember(self, told, usual):
        usual.append(float(told[0]))


@pytest.fixture
def personal() -> VoiceStage:
    return VoiceStage(Personal(), Log())


def said(number: int, **who) -> object:
    return replace(utterance(number), **who)


def turns(stage: VoiceStage, *events) -> list[float]:
    return [float(found.vector[0]) for found in taken(stage, *events)]


def test_who_speaks_again_is_known_better(personal):
    events = [said(0, speaker_id="v1"), said(1, speaker_id="v2"), said(2, speaker_id="v1"), said(3, speaker_id="v1")]
    assert turns(personal, *events) == [0, 0, 1, 2]


def test_a_voice_that_is_not_known_is_a_strangers_each_time(personal):
    assert turns(personal, said(0), said(1), said(2)) == [0, 0, 0]


def test_what_a_pause_is_taken_for_is_judged_but_not_remembered(personal):
    events = [replace(pausing(0, 2.0), speaker_id="v1"), said(0, speaker_id="v1"), said(1, speaker_id="v1")]
    assert turns(personal, *events) == [0, 0, 1]


def test_whose_voice_it_is_may_turn_out_in_the_end(personal):
    events = [said(0, speaker_id="v1"), replace(pausing(1, 2.0), speaker_id="v2"), said(1, speaker_id="v1")]
    assert turns(personal, *events) == [0, 0, 1]


def test_voices_are_forgotten_with_the_dialogue_and_people_are_not(personal):
    turns(personal, said(0, speaker_id="v1"), said(1, speaker_id="v2", person_id="anna"))
    personal.reset()
    events = [said(2, speaker_id="v1"), said(3, speaker_id="v1", person_id="anna")]
    assert turns(personal, *events) == [0, 1]


def test_a_thousand_voices_take_no_more_room_than_some(personal):
    turns(personal, *(said(number, speaker_id=f"v{number}") for number in range(1000)))
    turns(personal, *(said(number, person_id=f"p{number}") for number in range(1000, 2000)))
    assert len(personal._voices) == MOST_VOICES
    assert len(personal._people) == MOST_PEOPLE
    assert not personal._told


def test_silence_says_nothing_of_a_person(personal):
    silent = replace(utterance(0, samples=np.zeros(30, np.float32)), speaker_id="v1")
    found = only(taken(personal, silent))
    assert found.vector is None
    assert turns(personal, said(1, speaker_id="v1")) == [0]
