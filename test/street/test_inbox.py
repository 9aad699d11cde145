"""What waits for a stage: which events take whose place, and which are never lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import evidence, features, pausing, report, speaking, transcript, until, utterance

from synctva_ros.events import Image, Reset
from synctva_ros.street.inbox import IMAGES, OTHERS, PARTIAL, Inbox, Waiting


def never() -> None:
    return None


def emptied(inbox: Inbox) -> list[Waiting]:
    """All that waits, in order; nothing more may come."""
    found = []
    while (waiting := inbox.get(lambda: 0.0)) is not None:
        found.append(waiting)
    return found


def events(inbox: Inbox) -> list[Any]:
    return [waiting.event for waiting in emptied(inbox)]


def image(number: int) -> Image:
    return Image(number, np.zeros((1, 1, 3), np.uint8))


def test_events_leave_in_the_order_in_which_they_came() -> None:
    inbox = Inbox(100)
    given = [utterance(0), report(1.0), transcript(0), Reset(), pausing(1), image(0), utterance(2), report(2.0)]
    assert all(inbox.put(event) for event in given)
    assert inbox.waiting == 2
    assert events(inbox) == given
    assert inbox.waiting == 0
    assert inbox.counts == {"shed": 0, "skipped": 0, "lost": 0}


@pytest.mark.parametrize(
    "newer", [speaking(0, 3.0), pausing(0, 3.0), utterance(0, 3.0)], ids=["said", "pause", "final"]
)
def test_what_is_partial_is_replaced_by_what_is_newer_or_final_of_its_utterance(newer: Any) -> None:
    inbox = Inbox(100)
    others = [speaking(1), transcript(0, is_final=False)]
    for event in (speaking(0, 1.0), *others, newer):
        inbox.put(event)
    assert events(inbox) == [*others, newer]
    assert inbox.counts["lost"] == 0


def test_what_is_final_is_replaced_by_nothing() -> None:
    inbox = Inbox(100)
    given = [utterance(0), speaking(0), utterance(0)]
    for event in given:
        inbox.put(event)
    assert events(inbox) == [given[0], given[2]]


def test_with_too_many_utterances_the_next_is_answered_without_work_in_its_place_and_counted() -> None:
    inbox = Inbox(2)
    given = [features(number, text_vector=np.ones(3, np.float32), text="words") for number in range(4)]
    assert [inbox.put(event) for event in given] == [True, True, False, False]
    assert inbox.put(features(5, is_final=False))
    assert inbox.put(transcript(6))
    assert inbox.counts["shed"] == 2
    assert inbox.waiting == 4
    first, second, third, fourth, partial, words = emptied(inbox)
    assert [(first.event, first.shed), (second.event, second.shed)] == [(given[0], False), (given[1], False)]
    assert [third.shed, fourth.shed, partial.shed, words.shed] == [True, True, False, False]
    assert (third.event.utterance_id, third.event.text, third.event.text_vector) == ("m_2", "words", None)
    assert inbox.put(features(7))


def test_what_is_shed_keeps_no_sound() -> None:
    inbox = Inbox(1)
    sound = utterance(1)
    inbox.put(utterance(0))
    inbox.put(sound)
    shed = events(inbox)[1]
    assert (shed.utterance_id, len(shed.samples), shed.samples.base) == ("m_1", 0, None)
    assert len(sound.samples)


def test_of_images_the_latest_wait_and_the_others_are_counted() -> None:
    inbox = Inbox(1)
    given = [image(number) for number in range(10)]
    for event in [utterance(0), *given, report(1.0)]:
        inbox.put(event)
    assert [getattr(event, "stamp", None) for event in events(inbox)] == [None, 6, 7, 8, 9, report(1.0).stamp]
    assert inbox.counts["skipped"] == 10 - IMAGES == 6


def test_other_events_are_bounded_but_push_out_nothing_final() -> None:
    inbox = Inbox(1)
    words = [transcript(number) for number in range(3)]
    inbox.put(words[0])
    for number in range(OTHERS + 5):
        inbox.put(report(number))
    inbox.put(utterance(0))
    for event in words[1:]:
        inbox.put(event)
    found = events(inbox)
    assert found[0] is words[0]
    assert [event for event in found if hasattr(event, "text")] == words
    assert [event.stamp for event in found if hasattr(event, "faces")] == [
        report(number).stamp for number in range(5, OTHERS + 5)
    ]
    assert inbox.counts["lost"] == 5


def test_any_number_of_words_waits() -> None:
    inbox = Inbox(1)
    for number in range(2 * OTHERS):
        inbox.put(transcript(number))
    assert len(events(inbox)) == 2 * OTHERS
    assert inbox.counts["lost"] == 0


def test_utterances_that_never_end_take_no_memory() -> None:
    inbox = Inbox(1)
    for number in range(500):
        inbox.put(speaking(number))
    assert [event.utterance_id for event in events(inbox)] == [f"m_{number}" for number in range(500 - PARTIAL, 500)]


# --- waiting


def test_who_waits_is_woken_by_an_event_from_another_thread() -> None:
    inbox, found = Inbox(1), []
    thread = threading.Thread(target=lambda: found.append(inbox.get(never)))
    thread.start()
    inbox.put(event := utterance(0))
    thread.join(60.0)
    assert found == [Waiting(event)]


def test_what_is_due_ends_the_waiting_but_not_before_what_came() -> None:
    inbox = Inbox(1)
    due = time.monotonic() + 0.05
    assert inbox.get(lambda: due) is None
    assert time.monotonic() >= due
    inbox.put(event := utterance(0))
    assert inbox.get(lambda: due) == Waiting(event)


def test_closing_ends_the_waiting_for_good_and_gives_back_what_was_left() -> None:
    inbox, found = Inbox(1), []
    thread = threading.Thread(target=lambda: found.append(inbox.get(never)))
    thread.start()
    assert not inbox.closed
    assert inbox.close() == []
    thread.join(60.0)
    assert found == [None]
    assert inbox.closed
    other = Inbox(1)
    other.put(event := utterance(0))
    assert other.close() == [Waiting(event)]
    assert other.get(never) is None
    assert other.close() == []


def test_nothing_final_is_lost_or_doubled_when_many_put() -> None:
    inbox, done = Inbox(5), []
    threads = [
        threading.Thread(target=lambda who=who: [inbox.put(features(number, stream_id=who)) for number in range(300)])
        for who in ("a", "b", "c", "d")
    ]

    def take() -> None:
        while (waiting := inbox.get(never)) is not None:
            done.append(waiting)

    taker = threading.Thread(target=take)
    for thread in [taker, *threads]:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    until(lambda: len(done) == 1200, taker.join)
    inbox.close()
    taker.join(60.0)
    for who in "abcd":
        mine = [waiting.event.utterance_id for waiting in done if waiting.event.stream_id == who]
        assert mine == [f"m_{number}" for number in range(300)]
    assert sum(waiting.shed for waiting in done) == inbox.counts["shed"]


# --- whatever comes

KINDS = {
    "utterance": lambda number, final: utterance(number, is_final=final),
    "words": lambda number, final: transcript(number, is_final=final),
    "features": lambda number, final: features(number, is_final=final),
    "evidence": lambda number, final: evidence(number, is_final=final),
    "report": lambda number, final: report(number),
    "image": lambda number, final: image(number),
}


@settings(deadline=None, max_examples=300)
@given(
    size=st.integers(1, 3),
    steps=st.lists(
        st.one_of(st.none(), st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 3), st.booleans())), max_size=60
    ),
)
def test_whatever_comes_and_goes_nothing_final_is_lost_and_of_what_is_partial_the_newest_waits_once(
    size: int, steps: list[tuple[str, int, bool] | None]
) -> None:
    inbox = Inbox(size)
    put: list[Any] = []
    came: list[Any] = []  # in the order of their coming, final ones by their number in ``put``

    def is_final(event: Any) -> bool:
        return getattr(event, "is_final", False)

    def key(event: Any) -> Any:
        return type(event), getattr(event, "utterance_id", None)

    for step in steps:
        if step is None:
            waiting = inbox.get(lambda: 0.0)
            if waiting is not None:
                came.append(waiting)
        else:
            kind, number, final = step
            event = KINDS[kind](number, final)
            before = inbox.waiting
            is_kept = inbox.put(event)
            assert is_kept == (not (kind in ("utterance", "features") and final and before >= size))
            put.append(event)
        queue = [waiting.event for waiting in inbox._queue]
        partial = [key(event) for event in queue if getattr(event, "is_final", None) is False]
        assert len(partial) == len(set(partial))
        for event in queue:
            if getattr(event, "is_final", None) is False:
                assert event is [one for one in put if key(one) == key(event)][-1]
        assert sum(isinstance(event, Image) for event in queue) <= IMAGES
    came += emptied(inbox)
    assert [key(waiting.event) for waiting in came if is_final(waiting.event)] == [
        key(event) for event in put if is_final(event)
    ]
    assert len([waiting for waiting in came if waiting.shed]) == inbox.counts["shed"]
    reports = [event for event in put if key(event)[0] is type(report(0))]
    assert [waiting.event for waiting in came if type(waiting.event) is type(report(0))] == reports
