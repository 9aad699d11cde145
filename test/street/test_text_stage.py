"""Transcript → what its words tell."""

from __future__ import annotations

import numpy as np
import pytest
from made_events import Log, TextStub, only, taken, transcript

from synctva_ros.events import TranscriptStatus
from synctva_ros.street.text import TextStage


@pytest.fixture
def stage() -> TextStage:
    return TextStage(TextStub("en", "de"), Log())


def test_the_words_come_along_with_their_vector(stage: TextStage) -> None:
    found = only(taken(stage, transcript(0, "hello")))
    np.testing.assert_array_equal(found.vector, [5.0])
    assert (found.utterance_id, found.end, found.modality) == ("m_0", transcript(0).end, "text")
    assert (found.text, found.encoder, found.is_final) == ("hello", "text-stub", True)
    assert list(found.work) == ["transcribe", "text"]
    assert found.work["transcribe"] == 0.25


def test_the_same_words_are_encoded_once_whenever_they_end(stage: TextStage) -> None:
    found = taken(
        stage,
        *(
            transcript(0, "hello", end, is_final=is_final)
            for end, is_final in ((1.0, False), (2.0, False), (2.0, True))
        ),
    )
    assert [(one.end, one.is_final, one.vector[0]) for one in found] == [
        (transcript(0, end=1.0).end, False, 5.0),
        (transcript(0, end=2.0).end, False, 5.0),
        (transcript(0, end=2.0).end, True, 5.0),
    ]
    assert stage.encoder.calls == 1  # type: ignore[attr-defined]


def test_other_words_are_encoded_anew(stage: TextStage) -> None:
    found = taken(stage, transcript(0, "hello", is_final=False), transcript(0, "hello you"))
    assert [one.text for one in found] == ["hello", "hello you"]
    assert stage.encoder.calls == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [status for status in TranscriptStatus if status != TranscriptStatus.OK])
def test_without_words_there_is_nothing_to_go_by(stage: TextStage, status: TranscriptStatus) -> None:
    found = only(taken(stage, transcript(0, "", status=status)))
    assert (found.vector, found.encoder, found.text, found.work) == (None, "", "", {})
    assert stage.encoder.calls == 0  # type: ignore[attr-defined]


def test_words_that_the_recogniser_doubts_are_not_encoded(stage: TextStage) -> None:
    found = only(taken(stage, transcript(0, "doubtful", status=TranscriptStatus.UNRELIABLE)))
    assert found.vector is None
    assert stage.encoder.calls == 0  # type: ignore[attr-defined]


def test_words_of_a_language_that_the_encoder_does_not_know_keep_their_text_and_are_warned_of_once(
    stage: TextStage,
) -> None:
    for number in range(3):
        for language in ("fr", "pl"):
            found = only(taken(stage, transcript(number, "bonjour", language=language)))
            assert (found.vector, found.encoder, found.text) == (None, "", "bonjour")
    warnings = stage.log.warnings  # type: ignore[attr-defined]
    assert ["'fr'" in sentence for sentence in warnings] == [True, False]
    assert "'text-stub' knows en, de" in warnings[0]
    assert (stage.counts["foreign"], stage.counts["errors"], stage.state().level) == (6, 0, 0)
    assert only(taken(stage, transcript(9, "hallo", language="de"))).vector is not None


def test_words_of_an_unknown_language_and_an_encoder_for_all_languages_ask_nothing(stage: TextStage) -> None:
    assert only(taken(stage, transcript(0, "hello", language=""))).vector is not None
    for_all = TextStage(TextStub(), Log())
    assert only(taken(for_all, transcript(0, "bonjour", language="fr"))).vector is not None


def test_an_encoder_that_raises_costs_the_vector_but_not_the_words(stage: TextStage) -> None:
    stage.encoder.is_broken = True  # type: ignore[attr-defined]
    found = only(taken(stage, transcript(0, "hello")))
    assert (found.vector, found.encoder, found.text, found.work) == (None, "", "hello", {"transcribe": 0.25})
    assert "text failed on utterance m_0: RuntimeError: broken" in stage.state().sentence
    stage.encoder.is_broken = False  # type: ignore[attr-defined]
    assert only(taken(stage, transcript(1, "hello"))).vector is not None
    assert stage.state().level == 0


def test_it_is_warmed_up(stage: TextStage) -> None:
    stage.warm_up()
    assert stage.encoder.calls == 1  # type: ignore[attr-defined]
