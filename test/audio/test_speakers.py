"""Voices told apart by vectors that are drawn around a direction for each person."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.audio.speakers import CHANGE, MOST, NOBODY, PRESENT, UNSTEADY, Speakers, Spoken
from synctva_ros.events import FloatArray

WIDTH = 64


def person(number: int) -> FloatArray:
    """A direction for each of four people, at right angles to the others; of more than four, by chance."""
    if number >= 4:
        return np.random.default_rng([7, number]).normal(size=WIDTH).astype(np.float32)
    vector = np.zeros(WIDTH, np.float32)
    vector[number * WIDTH // 4 : (number + 1) * WIDTH // 4] = 2.0
    return vector


def said(number: int, rng: np.random.Generator, spread: float = 0.6) -> FloatArray:
    """What an encoder might make of an utterance of a person."""
    vector = person(number) + rng.normal(size=WIDTH) * spread
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@settings(deadline=None, max_examples=30)
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_each_person_has_one_id_and_keeps_it(order: list[int], seed: int) -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(seed)
    # Nearer to the person than elsewhere here: with 0.6 one of some thousand draws is as near to somebody else.
    ids = [speakers.hear(Spoken(said(number, rng, spread=0.4), 2.0)).speaker_id for number in order]
    assert len(set(zip(order, ids, strict=True))) == len(set(order)) == len(set(ids))
    assert list(dict.fromkeys(ids)) == [f"v{n + 1}" for n in range(len(set(order)))]


def test_too_little_speech_makes_nobody_new_but_knows_a_voice_again() -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(0)
    assert speakers.hear(Spoken(said(0, rng), 0.4)) == NOBODY
    assert speakers.hear(None) == NOBODY
    assert speakers.voices == []
    assert speakers.hear(Spoken(said(0, rng), 2.0)).speaker_id == "v1"
    before = speakers.voices[0].vector.copy()
    assert speakers.hear(Spoken(said(0, rng), 0.4)).speaker_id == "v1"
    assert speakers.hear(Spoken(said(1, rng), 0.4)) == NOBODY
    np.testing.assert_array_equal(speakers.voices[0].vector, before)


def test_a_name_is_given_kept_and_forgotten() -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(0)
    for number in (0, 1):
        speakers.hear(Spoken(said(number, rng), 2.0))
    assert speakers.enroll("v2", "anna").name == "anna"
    assert speakers.hear(Spoken(said(1, rng), 2.0)).person_id == "anna"
    assert speakers.hear(Spoken(said(0, rng), 2.0)).person_id == ""
    speakers.forget("anna")
    assert speakers.hear(Spoken(said(1, rng), 2.0)).speaker_id == "v3"
    assert speakers.hear(Spoken(said(1, rng), 2.0)).person_id == ""
    speakers.forget("")
    assert speakers.voices == []


@pytest.mark.parametrize(
    ("who", "name", "sentence"),
    [
        ("v9", "anna", "there is no voice 'v9'; those that are known: v1, v2 ben"),
        ("v1", "ben", "another voice has the name 'ben'"),
        ("v1", "", "the name is empty"),
    ],
)
def test_what_cannot_be_enrolled_is_told(who: str, name: str, sentence: str) -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(0)
    for number in (0, 1):
        speakers.hear(Spoken(said(number, rng), 2.0))
    speakers.enroll("v2", "ben")
    with pytest.raises(ValueError, match=sentence):
        speakers.enroll(who, name)
    with pytest.raises(ValueError, match="there is no voice 'carl'"):
        speakers.forget("carl")


def test_two_voices_that_turn_out_to_be_one_are_joined_under_the_older_id() -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(1)
    one, other = person(0), person(1)
    middle = one / np.linalg.norm(one) + other / np.linalg.norm(other)
    for vector in (one, one, other, other):
        heard = np.asarray(vector / np.linalg.norm(vector), np.float32)
        assert speakers.hear(Spoken(heard, 3.0)).joined == ()
    speakers.enroll("v2", "anna")
    joined: tuple[str, ...] = ()
    for _ in range(12):
        vector = middle + rng.normal(size=WIDTH) * 0.02
        found = speakers.hear(Spoken(np.asarray(vector / np.linalg.norm(vector), np.float32), 3.0))
        joined += found.joined
    assert joined == ("v2",)
    assert [(voice.speaker_id, voice.name) for voice in speakers.voices] == [("v1", "anna")]
    assert found.person_id == "anna"


def test_a_thousand_speakers_a_day_take_no_more_room() -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(2)
    speakers.hear(Spoken(said(0, rng), 3.0))
    speakers.enroll("v1", "anna")
    for number in range(1, 1000):
        speakers.hear(Spoken(said(number, rng), 3.0))
    assert len(speakers.voices) == MOST
    assert speakers.hear(Spoken(said(0, rng), 2.0)).person_id == "anna"
    assert speakers.hear(Spoken(said(999, rng), 2.0)).speaker_id != speakers.hear(Spoken(said(5, rng), 2.0)).speaker_id


def test_three_voices_that_turn_out_to_be_one_are_joined() -> None:
    """What was heard of a person in three rooms, until it is plain."""
    speakers = Speakers(0.3)
    base = person(0)
    apart = [np.asarray(base * 0.3 + person(n), np.float32) for n in (1, 2, 3)]
    for vector in apart:
        assert speakers.hear(Spoken(vector / np.linalg.norm(vector), 5.0)).speaker_id == f"v{len(speakers.voices)}"
    for voice in speakers.voices:
        voice.vector = np.asarray(voice.vector + 10 * base / np.linalg.norm(base), np.float32)
    heard = speakers.hear(Spoken(base / np.linalg.norm(base), 5.0))
    assert heard.speaker_id == "v1"
    assert sorted(heard.joined) == ["v2", "v3"]
    assert [voice.speaker_id for voice in speakers.voices] == ["v1"]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_whatever_is_heard_each_voice_is_there_once(seed: int) -> None:
    rng, speakers = np.random.default_rng(seed), Speakers(0.1)
    for _ in range(60):
        vector = rng.normal(size=4).astype(np.float32)
        heard = speakers.hear(Spoken(vector / np.linalg.norm(vector), float(rng.uniform(0.2, 6.0))))
        ids = [voice.speaker_id for voice in speakers.voices]
        assert len(set(ids)) == len(ids)
        assert heard.speaker_id in (*ids, "")
        assert not set(heard.joined) & set(ids)


def test_where_somebody_else_began_it_is_rather_not_the_same_voice() -> None:
    """A vector between two voices is the last one's by a little, unless it was heard that another began."""
    one, other = person(0) / np.linalg.norm(person(0)), person(1) / np.linalg.norm(person(1))
    for less, changed in ((0.02, False), (0.08, True)):
        speakers = Speakers(0.3)
        speakers.hear(Spoken(one, 2.0))
        speakers.hear(Spoken(other, 2.0))
        between = np.asarray(one * (1 - less) + other, np.float32)
        between /= np.linalg.norm(between)
        assert speakers.look(Spoken(between, 2.0, changed=changed)).speaker_id == "v1"
        assert speakers.hear(Spoken(between, 2.0, changed=changed)).speaker_id == "v1"


def test_a_voice_that_is_steady_must_be_known_better() -> None:
    """Of an utterance whose halves are alike, what is alike by half is somebody else."""
    one, other = (np.asarray(person(n) / np.linalg.norm(person(n)), np.float32) for n in (0, 1))
    half = np.asarray(0.5 * one + np.sqrt(0.75) * other, np.float32)
    for steady, whose in ((0.0, "v1"), (0.5 + UNSTEADY - 0.1, "v1"), (0.5 + UNSTEADY + 0.05, "v2")):
        speakers = Speakers(0.3)
        speakers.hear(Spoken(one, 2.0, 0.9))
        assert speakers.look(Spoken(half, 2.0, steady)).speaker_id == whose
        assert speakers.hear(Spoken(half, 2.0, steady)).speaker_id == whose


@settings(deadline=None, max_examples=30)
@given(probability=st.floats(0.1, 0.6), seed=st.integers(0, 99))
def test_a_stranger_is_another_and_whoever_spoke_is_not(probability: float, seed: int) -> None:
    speakers, rng = Speakers(0.3), np.random.default_rng(seed)
    speakers.hear(Spoken(said(0, rng), 2.0))
    assert speakers.is_another(said(0, rng), said(1, rng), probability)
    assert not speakers.is_another(said(0, rng), said(0, rng), probability)


def test_the_surer_somebody_else_began_the_more_alike_the_voices_may_be() -> None:
    one = person(0) / np.linalg.norm(person(0))
    other = 0.4 * one + np.sqrt(1 - 0.4**2) * person(1) / np.linalg.norm(person(1))
    answers = [Speakers(0.3).is_another(one, other, probability) for probability in (0.1, CHANGE, 0.4, 0.8, 0.95)]
    assert answers == [False, False, False, True, True]


def test_whoever_is_there_is_another_who_is_more_like_the_second_voice() -> None:
    one = person(0) / np.linalg.norm(person(0))
    friend = person(1) / np.linalg.norm(person(1))
    other = np.asarray(0.5 * one + np.sqrt(1 - 0.5**2) * friend, np.float32)
    speakers = Speakers(0.3)
    speakers.hear(Spoken(one, 2.0))
    assert not speakers.is_another(one, other, CHANGE)
    speakers.hear(Spoken(friend, 2.0))
    assert speakers.is_another(one, other, CHANGE)
    for _ in range(PRESENT):
        speakers.hear(Spoken(one, 2.0))
    assert not speakers.is_another(one, other, CHANGE)  # the friend has left
