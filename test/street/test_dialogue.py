"""Features → emotion, with a small network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_events import SECOND, Log, only, taken
from made_events import features as plain_features

from synctva_ros.config import Dialogue
from synctva_ros.events import EMOTIONS, Emotion, EndedBy, Features, Modality, Reset, Status
from synctva_ros.network.rolling import RollingDialogue
from synctva_ros.network.synctva import SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, save
from synctva_ros.street.dialogue import DialogueStage

WIDTHS = (6, 5, 4)
ABOUT = Description("small-1", EMOTIONS, {"text": "t-1", "audio": "a-1", "vision": "v-1"})


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("weights")
    save(SyncTVA(SyncTVAConfig(widths=WIDTHS, classes=7, hidden=16, heads=2, window=3)), folder, ABOUT)
    return folder


class Desk:
    """A stage, and how often its network ran."""

    def __init__(self, weights: Path, **parameters: Any) -> None:
        self.log = Log()
        self.config = Dialogue(**({"weights": str(weights), "device": "cpu", "uncertain_below": 0.0} | parameters))
        self.stage = DialogueStage(self.config, self.log)
        self.steps = 0
        self.is_broken = False
        step = self.stage._dialogue._step

        def counted(*arguments: Any) -> Any:
            self.steps += 1
            if self.is_broken:
                raise RuntimeError("broken")
            return step(*arguments)

        self.stage._dialogue._step = counted

    def take(self, *events: Any) -> list[Emotion]:
        return taken(self.stage, *events)


@pytest.fixture
def desk(weights: Path) -> Desk:
    return Desk(weights)


@pytest.fixture
def other(weights: Path) -> Desk:
    return Desk(weights)


def features(number: int, modalities: str = "TAV", **fields: Any) -> Features:
    rng = np.random.default_rng(number)
    text, audio, vision = (rng.standard_normal(width).astype(np.float32) for width in WIDTHS)
    given: dict[str, Any] = {
        "text_vector": text if "T" in modalities else None,
        "audio_vector": audio if "A" in modalities else None,
        "vision_vector": vision if "V" in modalities else None,
        "text_encoder": "t-1",
        "audio_encoder": "a-1",
        "vision_encoder": "v-1",
        "speaker_id": "ann",
    }
    return plain_features(number, **(given | fields))


def pausing(number: int, modalities: str = "TAV", **fields: Any) -> Features:
    return features(number, modalities, is_final=False, **fields)


def speaking(number: int, modalities: str = "AV", **fields: Any) -> Features:
    return features(number, modalities, is_final=False, ended_by=EndedBy.SPEAKING, **fields)


def same(one: Emotion, other: Emotion) -> None:
    """Equal but for the seconds that things took."""
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.contributions, other.contributions)
    for name in ("utterance_id", "dialogue_id", "turn", "context_ids", "context_weights", "status", "modalities"):
        assert getattr(one, name) == getattr(other, name)


def test_an_answer_says_what_was_found_of_whom_and_when(desk: Desk) -> None:
    desk.take(features(0))
    told = features(
        1,
        stream_id="m",
        stream_start=10.0,
        stream_end=12.0,
        overlap=0.25,
        face_id="f1",
        person_id="p1",
        text="words",
        frame_id="room",
        durations={"turns": 0.5},
        work={"text": 0.1},
    )
    found = only(desk.take(told))
    shared = set(vars(told)) & set(vars(found)) - {"work", "modalities"}
    assert {name: getattr(found, name) for name in shared} == {name: getattr(told, name) for name in shared}
    assert shared >= {
        "end",
        "start",
        "frame_id",
        "speaker_id",
        "face_id",
        "person_id",
        "stream_end",
        "overlap",
        "text",
        "durations",
    }
    assert (found.status, found.turn, found.model_id, found.labels) == (Status.FINAL, 1, "small-1", EMOTIONS)
    assert found.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert found.label == EMOTIONS[int(np.argmax(found.probabilities))]
    assert found.confidence == float(np.max(found.probabilities))
    assert found.contributions.sum() == pytest.approx(1.0, abs=1e-5)
    assert (found.context_ids, found.context_weights) == (("m_0",), (1.0,))
    assert np.isnan([found.valence, found.arousal]).all()
    assert list(found.work) == ["text", "network"]
    assert found.work["network"] > 0.0
    assert found.is_final
    assert desk.stage.counts["final"] == 2


def test_answers_are_those_of_the_rolling_dialogue(desk: Desk, weights: Path) -> None:
    dialogue = RollingDialogue.from_weights(weights)
    for number in range(6):
        told = features(number, ("TAV", "A", "TV", "")[number % 4])
        expected, found = dialogue.add(told), only(desk.take(told))
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        assert (found.turn, found.dialogue_id) == (expected.turn, expected.dialogue_id)


# --- working ahead


def test_what_a_pause_is_taken_for_is_estimated_ahead_without_an_answer(desk: Desk, other: Desk) -> None:
    assert desk.take(pausing(0)) == []
    assert desk.steps == 1
    same(only(desk.take(features(0))), only(other.take(features(0))))
    assert desk.steps == 1
    assert sum(desk.stage.counts.values()) == desk.stage.counts["final"] == 1


def test_what_was_said_so_far_gets_a_provisional_answer_that_the_dialogue_does_not_remember(
    desk: Desk, other: Desk
) -> None:
    desk.take(features(0))
    other.take(features(0))
    found = only(desk.take(speaking(1)))
    assert (found.status, found.is_final, found.turn) == (Status.PROVISIONAL, False, 1)
    assert found.modalities == Modality.AUDIO | Modality.VISION
    assert desk.stage.counts["provisional"] == 1
    for number in (1, 2):
        same(only(desk.take(features(number))), only(other.take(features(number))))


def test_a_provisional_answer_is_provisional_however_uncertain(weights: Path) -> None:
    desk = Desk(weights, uncertain_below=1.0)
    assert [one.status for one in desk.take(speaking(0), speaking(0, ""))] == [Status.PROVISIONAL] * 2


def test_what_is_partial_of_an_utterance_that_is_over_is_left_out(desk: Desk) -> None:
    desk.take(features(0))
    assert desk.take(speaking(0), pausing(0)) == []
    assert desk.steps == 1


def test_the_same_partial_features_again_are_not_estimated_again(desk: Desk) -> None:
    desk.take(pausing(0), pausing(0), pausing(0))
    assert desk.steps == 1


@pytest.mark.parametrize(
    "ahead",
    [
        pausing(1, start=features(1).start + 1),
        pausing(1, end=features(1).end + 1),
        pausing(1, speaker_id="bob"),
        pausing(1, "TA"),
        pausing(1, audio_vector=features(2).audio_vector),
        pausing(1, audio_vector=np.full(WIDTHS[1], np.nan, np.float32)),
        pausing(9),
    ],
    ids=["start", "end", "speaker", "fewer modalities", "other vector", "no number", "other utterance"],
)
def test_an_estimate_of_something_else_is_not_taken(desk: Desk, other: Desk, ahead: Features) -> None:
    desk.take(ahead)
    same(only(desk.take(features(1))), only(other.take(features(1))))
    assert desk.steps == 2


def test_an_estimate_is_not_taken_when_the_dialogue_has_moved_on(desk: Desk, other: Desk) -> None:
    desk.take(pausing(1), features(0))
    other.take(features(0))
    same(only(desk.take(features(1))), only(other.take(features(1))))
    assert desk.steps == 3


def test_an_estimate_is_not_taken_when_the_dialogue_is_over(desk: Desk, other: Desk) -> None:
    desk.take(features(0), pausing(1), Reset())
    same(only(desk.take(features(1))), only(other.take(features(1))))


# --- how far to trust it


def test_an_answer_with_less_confidence_than_asked_for_is_uncertain_at_any_time(desk: Desk) -> None:
    confidence = only(desk.take(features(0), Reset())).confidence
    for threshold, status in (
        (confidence, Status.FINAL),
        (float(np.nextafter(confidence, 1.0)), Status.UNCERTAIN),
        (0.0, Status.FINAL),
        (1.0, Status.UNCERTAIN),
    ):
        desk.config.uncertain_below = threshold
        assert only(desk.take(features(0), Reset())).status == status
    assert (desk.stage.counts["final"], desk.stage.counts["uncertain"]) == (3, 2)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_without_a_modality_an_answer_is_uncertain_whatever_was_asked_for(weights: Path, threshold: float) -> None:
    desk = Desk(weights, uncertain_below=threshold)
    found = only(desk.take(features(0, "", text="words")))
    assert found.status == Status.UNCERTAIN
    np.testing.assert_allclose(found.probabilities, 1 / 7)
    assert found.contributions.tolist() == [0.0, 0.0, 0.0]
    assert (found.modalities, found.text) == (Modality(0), "words")
    assert desk.steps == 0


def test_a_vector_that_is_no_number_counts_as_missing(desk: Desk, other: Desk) -> None:
    vector = features(0).audio_vector
    assert vector is not None
    vector[2] = np.nan
    found = only(desk.take(features(0, audio_vector=vector)))
    assert found.modalities == Modality.TEXT | Modality.VISION
    same(found, only(other.take(features(0, "TV"))))
    assert desk.stage.state().level == 0


# --- dialogues


def test_a_reset_comes_after_what_was_before_it_and_before_what_was_after_it(desk: Desk) -> None:
    first, second, third, fourth = desk.take(features(0), features(1), Reset(), features(2), features(3))
    assert [one.turn for one in (first, second, third, fourth)] == [0, 1, 0, 1]
    assert first.dialogue_id == second.dialogue_id != third.dialogue_id == fourth.dialogue_id
    assert fourth.context_ids == ("m_2",)


def test_reset_of_the_stage_forgets_the_dialogue_too(desk: Desk) -> None:
    first = only(desk.take(features(0)))
    desk.stage.reset()
    assert only(desk.take(features(1))).dialogue_id != first.dialogue_id


def test_limits_of_the_dialogue_are_those_of_the_parameters(weights: Path) -> None:
    desk = Desk(weights, max_turns=2, max_age=3.0, pause=9.0)
    assert only(desk.take(features(0), features(1))[1:]).context_ids == ()  # ended 8 s before
    assert only(desk.take(features(2, start=13 * SECOND))).context_ids == ("m_1",)
    assert only(desk.take(features(4))).turn == 0  # 18 s of silence


# --- failures


def test_a_network_that_raises_once_costs_one_answer(desk: Desk, other: Desk) -> None:
    for one in (desk, other):
        one.take(features(0))
    desk.is_broken = True
    found = only(desk.take(features(1, text="words")))
    desk.is_broken = False
    assert (found.utterance_id, found.status, found.turn, found.text) == ("m_1", Status.UNCERTAIN, 1, "words")
    np.testing.assert_allclose(found.probabilities, 1 / 7)
    assert desk.stage.state().sentence == "dialogue failed on utterance m_1: RuntimeError: broken"
    other.take(features(1, ""))
    same(only(desk.take(features(2))), only(other.take(features(2))))
    assert (desk.stage.state().level, desk.stage.state().sentence) == (0, "estimating")


def test_a_network_that_always_raises_answers_every_utterance(desk: Desk) -> None:
    desk.is_broken = True
    for number in range(1000):
        partial, final = desk.take(speaking(number), pausing(number), features(number))
        assert (partial.status, final.status, final.turn) == (Status.PROVISIONAL, Status.UNCERTAIN, number)
        assert desk.stage.state().level == 1
    assert (desk.stage.counts["errors"], len(desk.log.errors)) == (3000, 1)


def test_a_network_that_raises_when_the_dialogue_has_moved_on_costs_one_answer(desk: Desk) -> None:
    desk.take(pausing(1), features(0))
    desk.is_broken = True
    assert only(desk.take(features(1))).status == Status.UNCERTAIN
    desk.is_broken = False
    assert only(desk.take(features(2))).turn == 2


@pytest.mark.parametrize(
    "wrong", [{"text_encoder": "t-2"}, {"audio_vector": np.zeros(3, np.float32)}], ids=["encoder", "width"]
)
def test_vectors_of_another_encoder_are_refused_and_the_utterance_is_answered(
    desk: Desk, wrong: dict[str, Any]
) -> None:
    found = only(desk.take(replace(features(0), **wrong)))
    assert found.status == Status.UNCERTAIN
    np.testing.assert_allclose(found.probabilities, 1 / 7)
    assert "utterance 'm_0'" in desk.stage.state().sentence
    assert "small-1" in desk.log.errors[0]
    assert only(desk.take(features(1))).status == Status.FINAL


def test_a_reset_while_the_network_is_broken_leaves_the_warning(desk: Desk) -> None:
    desk.is_broken = True
    desk.take(features(0), Reset())
    assert desk.stage.state().level == 1


def test_what_is_shed_is_uncertain_and_a_turn(desk: Desk) -> None:
    desk.take(features(0))
    found = only(desk.stage.take(features(1).stripped(), shed=True))
    assert (found.status, found.turn, found.modalities) == (Status.UNCERTAIN, 1, Modality(0))
    assert desk.steps == 1
    assert only(desk.take(features(2))).turn == 2


def test_it_says_what_runs_where(desk: Desk) -> None:
    assert (desk.stage.model_id, desk.stage.labels) == ("small-1", EMOTIONS)
    assert desk.log.infos == ["weights 'small-1' run on cpu, 1 thread"]
    assert {"weights": "small-1", "device": "cpu", "errors": 0}.items() <= desk.stage.details().items()
    desk.stage.warm_up()
    assert only(desk.take(features(0))).turn == 0


@pytest.mark.parametrize(("device", "warnings"), [("cpu", 0), ("auto", 0), ("cuda", 1)])
def test_a_device_that_is_not_there_is_warned_of_only_when_asked_for(
    weights: Path, device: str, warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    desk = Desk(weights, device=device)
    assert len(desk.log.warnings) == warnings
    assert desk.stage.details()["device"] == "cpu"
