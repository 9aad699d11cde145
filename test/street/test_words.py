"""Utterance → transcript, with a recogniser that says what it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_events import Fragile, Log, only, pausing, speaking, taken, transcript, utterance

from synctva_ros.config import Words
from synctva_ros.events import Transcript, TranscriptStatus, Utterance
from synctva_ros.street import words as module
from synctva_ros.street.words import WordsStage


class Recogniser(Fragile):
    """Has heard how long an utterance is."""

    model_id, device = "stub", "cpu"

    def __init__(self, config: Words, log: Callable[[str], Any], warn: Callable[[str], Any]) -> None:
        super().__init__()
        self.status = TranscriptStatus.OK

    def transcribe(self, event: Utterance) -> Transcript:
        self.work()
        text = f"{event.stream_end - event.stream_start:g} seconds" if self.status == TranscriptStatus.OK else ""
        return Transcript(event.utterance_id, event.end, self.status, text, frame_id=event.frame_id)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> WordsStage:
    monkeypatch.setattr(module, "Transcriber", Recogniser)
    return WordsStage(Words(), Log())


def test_every_utterance_gets_its_words(stage: WordsStage) -> None:
    found = taken(stage, utterance(0), utterance(1, 3.0))
    assert [(one.utterance_id, one.text, one.is_final) for one in found] == [
        ("m_0", "2 seconds", True),
        ("m_1", "3 seconds", True),
    ]
    assert [one.end for one in found] == [utterance(0).end, utterance(1, 3.0).end]
    assert stage.counts["ok"] == 2


def test_what_goes_on_is_not_recognised(stage: WordsStage) -> None:
    assert taken(stage, speaking(0, 1.0), speaking(0, 1.5)) == []
    assert stage._transcriber.calls == 0  # type: ignore[attr-defined]


def test_what_a_pause_is_taken_for_is_recognised_in_it_and_once(stage: WordsStage) -> None:
    partial, final = taken(stage, pausing(0), utterance(0))
    assert (partial.text, partial.is_final, final.text, final.is_final) == ("2 seconds", False, "2 seconds", True)
    assert stage._transcriber.calls == 1  # type: ignore[attr-defined]
    assert stage.counts["ok"] == 1  # utterances, not transcripts


def test_who_goes_on_speaking_is_recognised_anew(stage: WordsStage) -> None:
    assert [one.text for one in taken(stage, pausing(0, 1.0), utterance(0))] == ["1 seconds", "2 seconds"]


def test_what_is_partial_of_an_utterance_that_is_over_is_not_recognised(stage: WordsStage) -> None:
    assert len(taken(stage, utterance(0), pausing(0))) == 1
    assert stage._transcriber.calls == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", list(TranscriptStatus))
def test_the_status_of_each_utterance_is_counted(stage: WordsStage, status: TranscriptStatus) -> None:
    stage._transcriber.status = status  # type: ignore[attr-defined]
    assert only(taken(stage, utterance(0))).status == status
    assert {name: count for name, count in stage.details().items() if count == 1} == {status.name.lower(): 1}
    assert set(stage.details()) >= {"model", "device", "errors", *(one.name.lower() for one in TranscriptStatus)}


def test_a_recogniser_that_raises_once_costs_one_utterance_its_words(stage: WordsStage) -> None:
    stage._transcriber.is_broken = True  # type: ignore[attr-defined]
    failed = only(taken(stage, utterance(0)))
    assert (failed.utterance_id, failed.end, failed.frame_id) == ("m_0", utterance(0).end, "room")
    assert (failed.status, failed.text, failed.is_final) == (TranscriptStatus.FAILED, "", True)
    assert (stage.state().level, stage.counts["failed"]) == (1, 1)
    assert taken(stage, speaking(1)) == []
    assert stage.state().level == 1  # nothing was recognised yet
    stage._transcriber.is_broken = False  # type: ignore[attr-defined]
    assert only(taken(stage, utterance(1))).text == "2 seconds"
    assert stage.state().level == 0


def test_a_recogniser_that_fails_in_the_pause_is_tried_again(stage: WordsStage) -> None:
    stage._transcriber.is_broken = True  # type: ignore[attr-defined]
    assert only(taken(stage, pausing(0))).status == TranscriptStatus.FAILED
    stage._transcriber.is_broken = False  # type: ignore[attr-defined]
    assert only(taken(stage, utterance(0))).text == "2 seconds"


def test_a_recogniser_that_always_raises_answers_every_utterance(stage: WordsStage) -> None:
    stage._transcriber.is_broken = True  # type: ignore[attr-defined]
    found = taken(stage, *(utterance(number) for number in range(1000)))
    assert [one.status for one in found] == [TranscriptStatus.FAILED] * 1000
    assert (stage.counts["failed"], stage.counts["errors"], len(stage.log.errors)) == (1000, 1000, 1)  # type: ignore[attr-defined]


def test_what_is_shed_has_no_words(stage: WordsStage) -> None:
    assert only(stage.take(utterance(0).stripped(), shed=True)).status == TranscriptStatus.FAILED
    assert stage._transcriber.calls == 0  # type: ignore[attr-defined]
    assert stage.state().level == 0


def test_without_a_model_the_state_says_so_and_every_utterance_is_answered() -> None:
    stage = WordsStage(Words(model=""), Log())
    assert (stage.state().level, stage.state().sentence) == (1, "no words: no model")
    assert [one.status for one in taken(stage, pausing(0), utterance(0))] == [TranscriptStatus.NO_MODEL] * 2
    assert stage.details()["model"] == "none"


def test_transcripts_that_say_the_same_are_the_same_input() -> None:
    first = transcript(0, "a", language="en")
    assert first.is_same_input(transcript(0, "a", end=9.0, language="en", duration=5.0, is_final=False))
    for other in (transcript(1, "a", language="en"), transcript(0, "b", language="en"), transcript(0, "a")):
        assert not first.is_same_input(other)
