"""Utterances, words, voice and faces in whatever order they come → features."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import Log, evidence, face, features, only, pausing, report, speaking, taken, utterance

from synctva_ros.config import Fusion
from synctva_ros.events import MODALITIES, EndedBy, Features, Modality
from synctva_ros.street import fusion
from synctva_ros.street.fusion import FACE_TIMEOUT, MOST_REPORTS, FusionStage, speakers_track
from synctva_ros.street.stage import REMEMBERED
from synctva_ros.vision.pooling import pool

TIMEOUT = 60.0


class Desk:
    """A stage to which words, faces, both or neither are sent by somebody."""

    def __init__(self, *expected: str, **parameters: Any) -> None:
        self.log = Log()
        self.config = Fusion(**({"transcript_timeout": TIMEOUT} | parameters))
        self.stage = FusionStage(self.config, self.log)
        self.expected = set(expected)
        self.stage.expects = lambda modality: modality in self.expected

    def take(self, *events: Any) -> list[Features]:
        return taken(self.stage, *events)

    def see(self, start: float, end: float, *faces: Any, rate: float = 10.0) -> None:
        """Report the same faces in image after image."""
        for number in range(round((end - start) * rate) + 1):
            assert self.take(report(start + number / rate, *faces)) == []


def same(one: Features, other: Features) -> None:
    """Equal but for what says when it came."""
    plain = {
        "text_vector": None,
        "audio_vector": None,
        "vision_vector": None,
        "is_final": True,
        "ended_by": EndedBy.PAUSE,
    }
    assert vars(replace(one, **plain)) == vars(replace(other, **plain))
    for mine, others in zip(one.vectors, other.vectors, strict=True):
        np.testing.assert_array_equal(mine, others)


def plain(number: int, end: float = 2.0) -> Features:
    """The features of an utterance that comes with its words and its voice when it is over."""
    desk = Desk("text")
    return only(
        desk.take(evidence(number, "audio", end, end), utterance(number, end), evidence(number, "text", end, end))
    )


# --- words and voice


def test_an_utterance_is_put_together() -> None:
    event = utterance(0, speaker_id="ann", durations={"turns": 0.5}, ended_by=EndedBy.SPLIT)
    desk = Desk("text", "vision")
    desk.see(0.0, 2.0, face("f7", 3.0))
    found = only(desk.take(evidence(0, "text", 1.0), evidence(0, "audio", 2.0), event))
    assert [float(vector[0]) for vector in found.vectors] == [1.0, 2.0, 3.0]  # type: ignore[index]
    assert (found.text_encoder, found.audio_encoder, found.vision_encoder) == ("text-stub", "audio-stub", "face-stub")
    for name in ("utterance_id", "start", "end", "stream_id", "stream_start", "stream_end", "speaker_id"):
        assert getattr(found, name) == getattr(event, name)
    assert (found.ended_by, found.frame_id, found.is_final) == (EndedBy.SPLIT, "room", True)
    assert (found.durations, found.text, found.face_id) == ({"turns": 0.5}, "words of 1.0", "f7")
    assert (found.frames_seen, found.frames_with_face) == (21, 21)
    assert found.work == {"text": 0.5, "audio": 0.5, "vision": pytest.approx(0.21)}
    assert desk.stage.counts["utterances"] == 1


def test_without_anything_an_utterance_has_no_modality() -> None:
    found = only(Desk().take(utterance(0)))
    assert (found.modalities, found.text, found.face_id, found.work) == (Modality(0), "", "", {})
    assert (found.text_encoder, found.audio_encoder, found.vision_encoder) == ("", "", "")


def test_what_a_pause_is_taken_for_waits_for_its_words_and_the_final_one_has_them() -> None:
    desk = Desk("text")
    assert desk.take(evidence(0, "audio", 2.0, is_final=False), pausing(0)) == []
    assert desk.stage.due is None
    partial = only(desk.take(evidence(0, "text", 2.0, is_final=False)))
    assert partial.is_final is False
    final = only(desk.take(evidence(0, "audio", 2.0), utterance(0)))
    assert final.is_final
    same(partial, final)
    same(final, plain(0))
    assert partial.is_same_input(final)


def test_words_of_what_was_said_before_are_not_those_of_an_utterance_that_went_on() -> None:
    desk = Desk("text")
    desk.take(pausing(0, 2.0), evidence(0, "text", 9.0, 2.0, is_final=False))
    assert desk.take(evidence(0, "audio", 3.0, 3.0), pausing(0, 3.0)) == []
    assert desk.take(evidence(0, "text", 9.0, 2.0, is_final=False), utterance(0, 3.0)) == []
    same(only(desk.take(evidence(0, "text", 3.0, 3.0))), plain(0, 3.0))


def test_final_words_count_whatever_end_they_carry() -> None:
    """Another recogniser may know nothing of partial utterances, and its stamps may be its own."""
    found = only(Desk("text").take(utterance(0), evidence(0, "text", 1.0, end=7.5)))
    assert found.text == "words of 1.0"


def test_final_words_count_more_than_partial_ones() -> None:
    desk = Desk("text")
    desk.take(evidence(0, "text", 1.0, is_final=False), evidence(0, "text", 2.0))
    assert only(desk.take(utterance(0))).text == "words of 2.0"


def test_words_may_come_before_their_utterance() -> None:
    desk = Desk("text")
    assert desk.take(evidence(0, "text", 2.0), evidence(0, "audio", 2.0)) == []
    same(only(desk.take(utterance(0))), plain(0))


def test_words_of_another_utterance_do_not_count() -> None:
    assert Desk("text").take(utterance(0), evidence(1)) == []


def test_who_has_nothing_to_go_by_has_told_so() -> None:
    found = only(Desk("text").take(utterance(0), evidence(0, "text", None, text="foreign words")))
    assert (found.text_vector, found.text_encoder, found.text) == (None, "", "foreign words")


def test_utterances_leave_in_the_order_in_which_they_were_final() -> None:
    desk = Desk("text")
    assert desk.take(utterance(1), utterance(0), evidence(0)) == []
    assert only(desk.take(pausing(2), evidence(2, is_final=False))).utterance_id == "m_2"  # that waits for nobody
    assert [one.utterance_id for one in desk.take(evidence(1))] == ["m_1", "m_0"]


def test_what_was_said_so_far_waits_for_nothing() -> None:
    desk = Desk("text", "vision")
    desk.see(0.0, 0.5, face())
    found = only(desk.take(evidence(0, "audio", 1.0, 1.0, is_final=False), speaking(0, 1.0)))
    assert (found.ended_by, found.is_final) == (EndedBy.SPEAKING, False)
    assert found.modalities == Modality.AUDIO | Modality.VISION
    assert desk.log.warnings == []


def test_what_is_partial_of_an_utterance_that_is_over_is_left_out() -> None:
    desk = Desk("text")
    assert desk.take(utterance(0), speaking(0), pausing(0)) == []
    assert len(desk.take(evidence(0))) == 1
    assert desk.take(pausing(0), speaking(0), evidence(0, is_final=False)) == list(desk.stage.flush()) == []


def test_words_that_do_not_come_are_done_without_in_time() -> None:
    desk = Desk("text")
    before = time.monotonic()
    assert desk.take(utterance(0), utterance(1), evidence(1)) == []
    due = desk.stage.due
    assert due is not None
    assert before <= due - TIMEOUT <= time.monotonic()
    assert list(desk.stage.advance(due - 0.001)) == []
    assert [(one.utterance_id, one.text) for one in desk.stage.advance(due)] == [("m_0", ""), ("m_1", "words of 1.0")]
    assert (desk.stage.counts["without words in time"], desk.stage.counts["utterances"]) == (1, 2)
    assert desk.log.warnings == [f"no transcript of m_0 within {TIMEOUT:g} s; it goes on without words"]
    assert desk.stage.due is None
    assert desk.take(evidence(0)) == []


def test_how_long_words_are_waited_for_may_change_at_any_time() -> None:
    desk = Desk("text")
    desk.take(utterance(0))
    desk.config.transcript_timeout = 0.0
    assert len(list(desk.stage.advance(time.monotonic()))) == 1


@pytest.mark.parametrize(
    "desk", [Desk(), Desk("vision"), Desk("text", text_encoder="")], ids=["nobody", "only faces", "no text encoder"]
)
def test_where_no_words_can_come_nobody_waits_for_them(desk: Desk) -> None:
    assert len(desk.take(pausing(0), utterance(0))) == 2
    assert desk.stage.due is None
    assert (desk.stage.counts["without words in time"], desk.log.warnings) == (0, [])


def test_a_recogniser_that_goes_away_is_not_waited_for() -> None:
    desk = Desk("text")
    desk.take(utterance(0))
    desk.expected.clear()
    assert len(list(desk.stage.advance(time.monotonic()))) == 1


def test_a_voice_that_comes_from_elsewhere_is_waited_for() -> None:
    desk = Desk("audio")
    assert desk.take(utterance(0), evidence(0, "text")) == []
    assert only(desk.take(evidence(0, "audio"))).modalities == Modality.TEXT | Modality.AUDIO


def test_what_is_shed_has_no_modality() -> None:
    desk = Desk("text")
    desk.see(0.0, 2.0, face())
    desk.take(evidence(0), evidence(0, "audio"))
    found = only(desk.stage.take(utterance(0).stripped(), shed=True))
    assert (found.modalities, found.utterance_id) == (Modality(0), "m_0")


def test_a_face_that_cannot_be_summed_up_costs_neither_words_nor_voice() -> None:
    desk = Desk()
    desk.take(report(1.0, face("f1", 1.0)), report(1.1, replace(face("f1"), expression=np.ones(2, np.float32))))
    found = only(desk.take(evidence(0, "text"), evidence(0, "audio"), utterance(0)))
    assert found.modalities == Modality.TEXT | Modality.AUDIO
    state = desk.stage.state()
    assert (state.level, desk.stage.counts["errors"]) == (1, 1)
    assert "on the face of utterance m_0" in state.sentence
    assert only(desk.take(evidence(1, "audio"), utterance(1))).modalities == Modality.AUDIO
    assert desk.stage.state().level == 0


def test_an_utterance_that_cannot_be_joined_goes_on_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    calls = iter([ValueError("broken")])

    def told(*_: Any) -> None:
        for error in calls:
            raise error

    monkeypatch.setattr(desk.stage, "_told", told)
    found = desk.take(utterance(0), utterance(1))
    assert [one.utterance_id for one in found] == ["m_0", "m_1"]
    assert found[0].modalities == Modality(0)
    assert desk.stage.counts["errors"] >= 1


def test_what_never_ends_takes_no_memory() -> None:
    desk = Desk("text")
    for number in range(500):
        desk.take(pausing(number), evidence(number + 1000), evidence(number, is_final=False, end=3.0))
    assert len(desk.stage._waiting) == REMEMBERED
    assert len(desk.stage._evidence) == len(MODALITIES) * REMEMBERED


def test_what_has_left_is_forgotten() -> None:
    desk = Desk("text")
    for number in range(10):
        desk.take(evidence(number, is_final=False), evidence(number, "audio"), evidence(number), utterance(number))
    assert not desk.stage._evidence
    assert not desk.stage._waiting


def test_reset_forgets_words_and_faces() -> None:
    desk = Desk()
    desk.see(0.0, 2.0, face())
    desk.take(evidence(0))
    desk.stage.reset()
    assert only(desk.take(utterance(0))).modalities == Modality(0)


# --- whether faces are waited for


def test_images_that_were_not_looked_at_yet_are_waited_for_but_not_long() -> None:
    desk = Desk("vision")
    desk.see(8.0, 11.5, face())
    before = time.monotonic()
    assert desk.take(pausing(1)) == desk.take(utterance(1)) == []
    due = desk.stage.due
    assert due is not None
    assert before <= due - FACE_TIMEOUT <= time.monotonic()
    assert list(desk.stage.advance(due - 0.001)) == []
    found = only(desk.stage.advance(due))
    assert (found.frames_seen, desk.stage.counts["without words in time"]) == (16, 0)


def test_an_utterance_goes_on_when_the_images_have_caught_up() -> None:
    desk = Desk("vision")
    desk.see(8.0, 11.5, face())
    desk.take(utterance(1))
    desk.see(11.6, 11.9, face())
    found = only(desk.take(report(12.0, face())))
    assert (found.frames_seen, found.frames_with_face) == (21, 21)


def test_images_that_nobody_looked_at_tell_how_far_they_are_too() -> None:
    desk = Desk("vision")
    desk.see(8.0, 11.9, face())
    desk.take(utterance(1))
    assert only(desk.take(report(12.01, looked_at=False))).frames_seen == 20


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [11.5],
        [10.0, 10.6, 11.2, 11.8],
        [10.8, 10.9, 11.0],
        [11.8, 11.9, 12.0],
        [11.9, 12.1],
    ],
    ids=["no camera", "one image", "slow", "stopped", "until the end", "beyond it"],
)
def test_images_that_need_not_come_are_not_waited_for(reports: list[float]) -> None:
    desk = Desk("vision")
    desk.take(*map(report, reports))
    assert len(desk.take(utterance(1))) == 1


def test_a_late_image_does_not_set_back_how_far_they_are() -> None:
    desk = Desk("vision")
    desk.see(8.0, 12.0, face())
    desk.take(report(11.85, looked_at=False))
    assert only(desk.take(utterance(1))).frames_with_face == 21


def test_where_nobody_sends_faces_nobody_waits_for_them() -> None:
    desk = Desk()
    desk.see(8.0, 11.5, face())
    assert len(desk.take(utterance(1))) == 1


# --- whose face


def seen(desk: Desk, *reports: Any) -> Features:
    desk.take(*reports)
    return only(desk.take(utterance(0)))


def values(reports: Iterable[tuple[Any, Any]]) -> list[str]:
    return [one.face_id for _, one in reports]


def test_only_images_from_start_to_end_of_speech_count() -> None:
    desk = Desk()
    for number in range(-5, 26):
        desk.take(report(10.0 + number / 10, face("f1", 1.0 if 0 <= number <= 20 else 1000.0)))
    found = only(desk.take(utterance(1)))
    assert (found.frames_seen, found.frames_with_face) == (21, 21)
    np.testing.assert_array_equal(found.vision_vector, [1.0])


def test_the_largest_face_in_all_images_together_is_the_speakers() -> None:
    near, far = face("near", 1.0, width=0.4, height=0.4), face("far", 2.0)
    found = seen(Desk(), *(report(number / 10, far, *([near] if number > 10 else [])) for number in range(20)))
    assert (found.face_id, found.frames_seen, found.frames_with_face) == ("near", 20, 9)
    np.testing.assert_array_equal(found.vision_vector, [1.0])
    found = seen(Desk(), *(report(number / 10, far, *([near] if number > 17 else [])) for number in range(20)))
    assert (found.face_id, found.frames_with_face) == ("far", 20)


def test_another_face_that_can_be_read_lends_the_speakers_neither_id_nor_vector() -> None:
    dark = face("near", None, width=0.4, height=0.4, quality=0.1)
    found = seen(Desk(), *(report(number / 10, dark, face("far", 2.0)) for number in range(20)))
    assert (found.face_id, found.vision_vector, found.vision_encoder) == ("", None, "")
    assert (found.frames_seen, found.frames_with_face) == (20, 20)
    assert "vision" not in found.work


def test_of_the_speakers_face_the_images_in_which_it_can_be_read_count() -> None:
    reports = [report(number / 10, face("f1", 1.0 if number % 2 else None)) for number in range(20)]
    found = seen(Desk(), *reports)
    assert (found.face_id, found.frames_with_face) == ("f1", 20)
    np.testing.assert_array_equal(found.vision_vector, [1.0])


def test_images_weigh_as_they_are_pooled_elsewhere() -> None:
    rng = np.random.default_rng(0)
    reports = [report(number / 10, face("f1", rng.normal(), quality=rng.uniform(0.3, 1.0))) for number in range(20)]
    found = seen(Desk(), *reports)
    faces = [one.faces[0] for one in reports]
    expected = pool([one.stamp for one in reports], [one.quality for one in faces], [one.expression for one in faces])
    np.testing.assert_array_equal(found.vision_vector, expected)


def test_images_that_nobody_looked_at_do_not_count() -> None:
    found = seen(Desk(), report(0.0, face()), report(0.1, looked_at=False), report(0.2, face()))
    assert (found.frames_seen, found.frames_with_face) == (2, 2)


def test_vectors_of_two_encoders_are_not_mixed() -> None:
    old, new = report(0.5, face("f1", 1.0), encoder="old"), report(0.6, face("f1", 2.0), encoder="new")
    found = seen(Desk(), old, new)
    assert (found.vision_encoder, found.vision_vector) == ("new", [2.0])


@pytest.mark.parametrize(
    ("attend", "expected"),
    [
        ((-1.0, -1.0), "large"),
        ((0.1, 0.5), "left"),
        ((0.9, 0.5), "right"),
        ((0.9, -1.0), "right"),
        ((-1.0, 0.1), "left"),
    ],
)
def test_the_face_nearest_to_the_point_that_is_attended_to_is_the_speakers(
    attend: tuple[float, float], expected: str
) -> None:
    desk = Desk(attend_x=attend[0], attend_y=attend[1])
    faces = [face("left", x=0.0), face("large", x=0.3, width=0.4, height=0.4), face("right", x=0.8)]
    faces += [face("low", x=0.3, y=0.8)]
    assert seen(desk, *(report(number / 10, *faces) for number in range(20))).face_id == expected


def test_the_point_that_is_attended_to_may_change_at_any_time() -> None:
    desk = Desk()
    faces = [face("left", x=0.0), face("large", x=0.3, width=0.4, height=0.4)]
    desk.take(*(report(number / 10, *faces) for number in range(20)))
    desk.config.attend_x, desk.config.attend_y = 0.0, 0.5
    assert only(desk.take(utterance(0))).face_id == "left"


def test_who_passes_by_the_point_that_is_attended_to_is_not_the_speaker() -> None:
    reports = [
        report(number / 10, face("stays", x=0.5), *([face("passes", x=0.0)] if number < 9 else []))
        for number in range(20)
    ]
    assert set(values(speakers_track(reports, 0.1, 0.5))) == {"stays"}
    reports[9] = report(0.9, face("stays", x=0.5), face("passes", x=0.0))
    assert set(values(speakers_track(reports, 0.1, 0.5))) == {"passes"}


def test_the_distance_is_that_of_the_middle_of_a_face() -> None:
    reports = [report(0.0, face("wide", x=0.0, width=0.8), face("narrow", x=0.1, width=0.1))]
    assert values(speakers_track(reports, 0.4, 0.5)) == ["wide"]
    assert values(speakers_track(reports, 0.1, 0.5)) == ["narrow"]


def test_without_faces_there_is_no_track() -> None:
    assert speakers_track([]) == speakers_track([report(0.0)], 0.5, 0.5) == []


# --- which faces are remembered


def test_old_reports_are_forgotten() -> None:
    desk = Desk(face_memory=5.0)
    desk.see(0.0, 10.0, face(), rate=2.0)
    assert only(desk.take(utterance(0, 10.0))).frames_seen == 11
    desk.config.face_memory = 10.0
    desk.see(10.5, 20.0, face(), rate=2.0)
    assert only(desk.take(utterance(0, 20.0))).frames_seen == 21
    assert len(desk.stage._reports) == 21


def test_the_number_of_reports_is_bounded() -> None:
    desk = Desk(face_memory=600.0)
    desk.take(*(report(number / 1000) for number in range(MOST_REPORTS + 10)))
    assert len(desk.stage._reports) == MOST_REPORTS
    assert desk.stage._reports[0].stamp == report(0.01).stamp


def test_stamps_that_jump_back_forget_what_was_before() -> None:
    desk = Desk()
    desk.see(0.0, 100.0, face("before", 1.0))
    desk.see(0.0, 2.0, face("after", 2.0))
    found = only(desk.take(utterance(0)))
    assert (found.face_id, found.frames_seen) == ("after", 21)


def test_stamps_that_are_a_little_late_forget_nothing_and_come_into_their_place() -> None:
    desk = Desk()
    reports = [report(number / 10, face("f1", number, quality=0.5 + number / 100)) for number in range(20)]
    in_order = seen(Desk(), *reports)
    shuffled = [reports[place] for place in (0, 2, 1, 5, 4, 3, *range(6, 18), 19, 18)]
    same(seen(desk, *shuffled), in_order)
    assert in_order.frames_seen == 20


# --- whatever comes


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_overtakes_what_each_utterance_comes_once_in_order_and_as_without_haste(data: st.DataObject) -> None:
    """Three utterances; topics overtake each other, messages on one topic do not."""
    topics: dict[str, list[Any]] = {"partial": [], "utterances": [], "partial words": [], "words": [], "voice": []}
    for number in range(3):
        for end in data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=3)):
            topics["partial"].append(data.draw(st.sampled_from([speaking, pausing]))(number, end))
            topics["partial words"].append(evidence(number, "text", end, end, is_final=False))
        # In the node voice and utterance come from the same message.
        topics["utterances"].append([evidence(number, "audio", 3.0, 3.0), utterance(number, 3.0)])
        topics["words"].append(evidence(number, "text", 3.0, 3.0))
    topics["faces"] = [report(1000.0 + number) for number in range(data.draw(st.integers(0, 5)))]
    desk, found = Desk("text", "vision"), []
    while left := [name for name, messages in topics.items() if messages]:
        event = topics[data.draw(st.sampled_from(left))].pop(0)
        found += desk.take(*(event if isinstance(event, list) else [event]))
    finals = [one for one in found if one.is_final]
    assert [one.utterance_id for one in finals] == ["m_0", "m_1", "m_2"]
    for number, one in enumerate(finals):
        same(one, plain(number, 3.0))
        assert [each.is_final for each in found if each.utterance_id == one.utterance_id][-1]
    assert desk.log.warnings == []


def test_features_of_other_ends_speakers_or_vectors_are_another_input() -> None:
    one = features(0, text_vector=np.ones(2, np.float32), text_encoder="t")
    assert one.is_same_input(
        replace(one, text_vector=np.ones(2, np.float32), is_final=False, text="x", work={"a": 1.0})
    )
    for changed in (
        {"utterance_id": "m_1"},
        {"start": 1},
        {"end": 1},
        {"speaker_id": "ann"},
        {"text_encoder": "u"},
        {"text_vector": np.zeros(2, np.float32)},
        {"text_vector": None},
        {"audio_vector": np.ones(2, np.float32)},
    ):
        assert not one.is_same_input(replace(one, **changed))


def test_an_image_that_is_told_of_again_counts_once() -> None:
    desk = Desk()
    for value in (1.0, 2.0):  # a node that was activated again looks at the newest images anew
        desk.take(report(0.5, face("f1", value)))
    found = only(desk.take(utterance(0)))
    assert (found.frames_seen, found.frames_with_face) == (1, 1)
    assert found.vision_vector is not None
    assert float(found.vision_vector[0]) == 2.0


def test_images_of_another_clock_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    now = [1000.0]
    monkeypatch.setattr(fusion, "time", SimpleNamespace(monotonic=lambda: now[0]))
    desk.take(report(1.0), utterance(0))
    assert desk.stage.lacks(now[0]) == {}
    desk.take(report(1.1), utterance(5))  # the images are 50 s behind
    state = desk.stage.lacks(now[0])["clock"]
    assert state.level == 1
    assert state.sentence.startswith("the stamps of the images are 50.9 s behind those of the sound")
    desk.take(report(52.0), utterance(5, utterance_id="m_x"))
    assert desk.stage.lacks(now[0]) == {}
    now[0] += 60.0
    desk.take(utterance(20))  # long after the camera was switched off
    assert desk.stage.lacks(now[0]) == {}
