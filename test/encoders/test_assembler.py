"""Utterances, words and pictures in any order: each utterance's features come once, in order, and as without haste."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.encoders import assembler as module
from synctva_ros.encoders.assembler import FeatureAssembler, Pictures
from synctva_ros.encoders.extractor import FeatureExtractor
from synctva_ros.encoders.face import FaceBox, FaceObservation
from synctva_ros.events import EndedBy, Transcript, TranscriptStatus, Utterance

SECOND = 1_000_000_000


class Text:
    name = "words"

    def encode(self, texts):
        return np.array([[float(len(text))] for text in texts], np.float32)


class Audio:
    name = "voice"

    def __init__(self):
        self.calls = 0

    def encode(self, samples, rate):
        self.calls += 1
        return np.array([samples.sum()], np.float32)


class Face:
    name = "face"

    def encode(self, observations):
        return np.array([float(len(observations))], np.float32)


def utterance(number, end=2, ended_by=EndedBy.PAUSE):
    """The ``number``-th utterance, from 10 ``number`` seconds on, as far as it was heard ``end`` seconds later."""
    start = 10 * number
    return Utterance(
        utterance_id=f"m_{number}",
        stream_id="m",
        first_sequence=0,
        last_sequence=1,
        start=start * SECOND,
        end=(start + end) * SECOND,
        stream_start=float(start),
        stream_end=float(start + end),
        ended_by=ended_by,
        samples_start=start * SECOND,
        sample_rate=10,
        samples=np.arange(10 * end, dtype=np.float32),
        rms=0.1,
        clipped=False,
    )


def words(number, text="some words"):
    return Transcript(f"m_{number}", TranscriptStatus.OK, text, duration=0.1)


class Desk:
    """An assembler with a detector that has seen everything, unless ``seen_until`` [s] says otherwise."""

    def __init__(self, expects_words=True, timeout=60.0):
        self.audio = Audio()
        self.seen_until = 1000
        self.partial, self.final, self.late = [], [], []
        self.assembler = FeatureAssembler(
            FeatureExtractor(Text(), self.audio, Face()),
            self.pictures,
            lambda: expects_words,
            timeout,
            self.partial.append,
            self.final.append,
            self.late.append,
        )

    def pictures(self, start, end):
        stamps = [stamp for stamp in range(start, end + 1, SECOND) if stamp <= self.seen_until * SECOND]
        box = FaceBox(0.0, 0.0, 100.0, 100.0, 1.0)
        crop = np.zeros((48, 48), np.uint8)
        observations = [FaceObservation(stamp, "f1", box, 0.9, crop) for stamp in stamps]
        return Pictures(len(stamps), observations, self.seen_until * SECOND >= end)


def same(one, other):
    """Equal but for the seconds that things took."""
    assert replace(one, durations={}, text_vector=None, audio_vector=None, vision_vector=None) == replace(
        other, durations={}, text_vector=None, audio_vector=None, vision_vector=None
    )
    for name in ("text_vector", "audio_vector", "vision_vector"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def plain(number, **how):
    """The features of an utterance that comes with its words when it is over."""
    desk = Desk()
    desk.assembler.utterance(utterance(number, **how), 0.5)
    desk.assembler.transcript(words(number))
    return desk.final[0]


def test_what_a_pause_is_taken_for_is_given_out_when_its_words_are_there_and_encoded_once():
    desk = Desk()
    desk.assembler.partial(utterance(0), 0.15)
    assert desk.partial == []
    desk.assembler.transcript(words(0), utterance(0).end)
    assert [features.text for features in desk.partial] == ["some words"]
    assert desk.partial[0].durations["endpoint"] == 0.15
    desk.assembler.utterance(utterance(0), 0.5)
    assert len(desk.final) == len(desk.partial) == desk.audio.calls == 1
    assert desk.final[0].durations["endpoint"] == 0.5
    same(desk.final[0], plain(0))
    same(desk.final[0], desk.partial[0])


def test_who_goes_on_speaking_is_heard_anew():
    desk = Desk()
    desk.assembler.partial(utterance(0, end=2), 0.15)
    desk.assembler.transcript(words(0, "out of date"), utterance(0, end=2).end)
    desk.assembler.partial(utterance(0, end=3), 0.15)
    desk.assembler.utterance(utterance(0, end=3), 0.5)
    assert desk.final == []  # the words of the shorter one are not those of this
    desk.assembler.transcript(words(0), utterance(0, end=3).end)
    same(desk.final[0], plain(0, end=3))


def test_words_of_the_utterance_count_whatever_end_they_carry():
    """Another recogniser may know nothing of partial utterances, and its stamps may be its own."""
    desk = Desk()
    desk.assembler.partial(utterance(0), 0.15)
    desk.assembler.utterance(utterance(0), 0.5)
    desk.assembler.transcript(words(0))
    same(desk.final[0], plain(0))


def test_words_may_come_before_their_utterance():
    desk = Desk()
    desk.assembler.transcript(words(0))
    desk.assembler.utterance(utterance(0), 0.5)
    same(desk.final[0], plain(0))


def test_utterances_leave_in_the_order_in_which_they_were_confirmed():
    desk = Desk()
    desk.assembler.utterance(utterance(0), 0.5)
    desk.assembler.partial(utterance(1), 0.15)
    desk.assembler.transcript(words(1), utterance(1).end)
    assert [features.utterance_id for features in desk.partial] == ["m_1"]  # that need not wait
    desk.assembler.utterance(utterance(1), 0.5)
    assert desk.final == []
    desk.assembler.transcript(words(0))
    assert [features.utterance_id for features in desk.final] == ["m_0", "m_1"]


def test_what_was_said_so_far_is_voice_and_face():
    desk = Desk()
    desk.assembler.partial(utterance(0, end=1, ended_by=EndedBy.SPEAKING), 0.01)
    (features,) = desk.partial
    assert features.ended_by is EndedBy.SPEAKING
    assert features.text_vector is None
    np.testing.assert_array_equal(features.audio_vector, [45.0])
    np.testing.assert_array_equal(features.vision_vector, [2.0])
    desk.assembler.utterance(utterance(0), 0.5)
    desk.assembler.transcript(words(0))
    same(desk.final[0], plain(0))


def test_what_comes_late_of_an_utterance_that_is_over_is_left_out():
    desk = Desk()
    desk.assembler.utterance(utterance(0), 0.5)
    desk.assembler.partial(utterance(0, ended_by=EndedBy.SPEAKING), 0.01)
    desk.assembler.partial(utterance(0), 0.15)
    desk.assembler.transcript(words(0))
    desk.assembler.partial(utterance(0), 0.15)
    assert desk.partial == []
    assert len(desk.final) == 1


@pytest.mark.parametrize("ahead", [False, True])
def test_without_a_recogniser_nobody_waits_for_words(ahead):
    desk = Desk(expects_words=False)
    if ahead:
        desk.assembler.partial(utterance(0), 0.15)
        assert len(desk.partial) == 1
    desk.assembler.utterance(utterance(0), 0.5)
    assert desk.final[0].text_vector is None
    assert desk.final[0].audio_vector is not None
    assert desk.late == []
    assert desk.assembler.due is None


def test_words_that_do_not_come_are_done_without_in_time():
    desk = Desk(timeout=0.05)
    desk.assembler.partial(utterance(0), 0.15)
    assert desk.assembler.due is None  # the person may go on speaking for as long as it takes
    desk.assembler.utterance(utterance(0), 0.5)
    desk.assembler.utterance(utterance(1), 0.5)
    desk.assembler.transcript(words(1))
    due = desk.assembler.due
    assert 0.0 < due - time.monotonic() <= 0.05
    assert desk.final == []
    time.sleep(due - time.monotonic())
    desk.assembler.advance()
    assert [(features.utterance_id, features.text) for features in desk.final] == [("m_0", ""), ("m_1", "some words")]
    assert desk.late == ["m_0"]
    assert desk.assembler.due is None


def test_pictures_that_the_detector_has_not_seen_are_waited_for_but_not_forever(monkeypatch):
    desk = Desk()
    desk.seen_until = 1
    desk.assembler.partial(utterance(0), 0.15)
    desk.assembler.transcript(words(0), utterance(0).end)
    assert desk.partial == []
    desk.seen_until = 2
    desk.assembler.advance()
    assert desk.partial[0].frames_seen == 3
    monkeypatch.setattr(module, "FACE_TIMEOUT", 0.05)
    desk.assembler.utterance(utterance(1), 0.5)
    desk.assembler.transcript(words(1))
    time.sleep(desk.assembler.due - time.monotonic())
    desk.assembler.advance()
    assert (desk.final[0].utterance_id, desk.final[0].frames_seen) == ("m_1", 0)


def test_what_never_ends_takes_no_memory():
    desk = Desk()
    for number in range(500):
        desk.assembler.partial(utterance(number), 0.15)
        desk.assembler.transcript(words(number + 1000), 5)
    assert len(desk.assembler._open) == len(desk.assembler._transcripts) == module.REMEMBERED


@settings(deadline=None)
@given(st.data())
def test_whatever_overtakes_what_each_utterance_comes_once_and_as_without_haste(data):
    """The messages of three utterances; topics overtake each other, messages on one topic do not."""
    topics = {"partial": [], "utterance": [], "words of partial": [], "words": []}
    for number in range(3):
        for end in data.draw(st.lists(st.integers(1, 3), max_size=3)):
            speaking = data.draw(st.booleans())
            ended_by = EndedBy.SPEAKING if speaking else EndedBy.PAUSE
            topics["partial"].append(
                lambda desk, n=number, e=end, by=ended_by: desk.assembler.partial(
                    utterance(n, end=e, ended_by=by), 0.15
                )
            )
            if not speaking:
                topics["words of partial"].append(
                    lambda desk, n=number, e=end: desk.assembler.transcript(
                        words(n, "some words" if e == 3 else "out of date"), utterance(n, end=e).end
                    )
                )
        topics["utterance"].append(lambda desk, n=number: desk.assembler.utterance(utterance(n, end=3), 0.5))
        topics["words"].append(lambda desk, n=number: desk.assembler.transcript(words(n)))
    desk = Desk()
    while left := [name for name, messages in topics.items() if messages]:
        topics[data.draw(st.sampled_from(left))].pop(0)(desk)
    assert len(desk.final) == 3
    for number, features in enumerate(desk.final):
        same(features, plain(number, end=3))
