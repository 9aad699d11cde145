"""The rules that all stages share, on stages that do next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import Log, only, taken

from synctva_ros.street import stage as module
from synctva_ros.street.stage import REMEMBERED, Join, Stage, State, Transform

#: How long a toy waits for a part [s].
PATIENCE = 100.0


@dataclass(frozen=True)
class Said:
    utterance_id: str
    content: str = ""
    is_final: bool = True
    end: int = 0

    def is_same_input(self, other: Said) -> bool:
        return (self.utterance_id, self.content) == (other.utterance_id, other.content)


@dataclass(frozen=True)
class Part:
    """What belongs to an utterance with this content, or to the final one whatever its content."""

    utterance_id: str
    content: str = ""
    is_final: bool = True


@dataclass(frozen=True)
class Answer:
    utterance_id: str
    content: str
    is_final: bool = True


def partial(identity: str, content: str = "") -> Said:
    return Said(identity, content, is_final=False)


class Shout(Transform[Said, str]):
    """Says it in capitals; "?" is not worth an answer before it is final."""

    name: ClassVar[str] = "shout"
    takes: ClassVar[tuple[type, ...]] = (Said,)

    def __init__(self, log: Any = None) -> None:
        super().__init__(log or Log())
        self.worked: list[Said] = []
        self.error: Exception | None = None
        self.refuses: str | None = None

    def is_wanted(self, event: Said) -> bool:
        return event.is_final or event.content != "?"

    def work(self, event: Said) -> str:
        self.worked.append(event)
        if self.error is not None:
            raise self.error
        return event.content.upper()

    def nothing(self, event: Said) -> str:
        return "nothing"

    def answer(self, event: Said, result: str) -> Iterator[Answer]:
        if result == self.refuses:
            raise ValueError(f"no {result}")
        yield Answer(event.utterance_id, result, event.is_final)


class Pair(Join[Said]):
    """An utterance with its part; while its content is "?" it needs none."""

    name: ClassVar[str] = "pair"
    takes: ClassVar[tuple[type, ...]] = (Said, Part)
    principal: ClassVar[type] = Said

    def __init__(self, log: Any = None) -> None:
        super().__init__(log or Log())
        self.parts: dict[str, list[Part]] = {}
        self.broken = ""

    def keep(self, event: Part) -> None:
        if event.content == "bad":
            raise ValueError("bad part")
        self.parts.setdefault(event.utterance_id, []).append(event)

    def missing(self, ticket: Any) -> float:
        return 0.0 if self.part(ticket.event) or ticket.event.content == "?" else PATIENCE

    def part(self, event: Said) -> Part | None:
        parts = self.parts.get(event.utterance_id, [])
        return next((part for part in parts if part.is_final or part.content == event.content), None)

    def join(self, event: Said) -> Answer:
        if event.utterance_id == self.broken:
            raise ValueError("broken join")
        part = self.part(event)
        return Answer(event.utterance_id, f"{event.content}+{part.content if part else ''}", event.is_final)

    def nothing(self, event: Said) -> Answer:
        return Answer(event.utterance_id, "nothing", event.is_final)

    def forget(self, identity: str) -> None:
        self.parts.pop(identity, None)


class Single(Stage):
    """Gives a number of answers and then perhaps raises."""

    name: ClassVar[str] = "single"
    takes: ClassVar[tuple[type, ...]] = (int,)

    def process(self, event: int) -> Iterator[str]:
        yield "begun"
        if event < 0:
            raise ValueError("negative")
        yield "done"
        self.succeeded()

    def without(self, event: int) -> Iterator[str]:
        yield "without"


# --- any stage


def test_an_event_of_no_utterance_is_taken_and_what_raises_in_the_middle_gives_only_the_answer_without_it() -> None:
    stage = Single(Log())
    assert taken(stage, 1, -1, 1) == ["begun", "done", "without", "begun", "done"]
    assert stage.counts["errors"] == 1


def test_a_failure_says_what_where_and_why_once_in_a_while_and_is_counted_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Shout(log := Log())
    stage.error = RuntimeError("no memory")
    for number in range(1000):
        assert taken(stage, Said(f"u{number}")) == [Answer(f"u{number}", "nothing")]
    assert stage.counts["errors"] == stage.details()["errors"] == 1000
    assert log.errors[0].startswith("shout failed on utterance u0: RuntimeError: no memory (work, line ")
    assert len(log.errors) == 1
    stage.error = RuntimeError("no disk")
    taken(stage, Said("v"))
    assert len(log.errors) == 2
    monkeypatch.setattr(module, "REPEAT_AFTER", 0.0)
    taken(stage, Said("w"))
    assert len(log.errors) == 3


def test_failures_that_all_differ_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_AFTER", 0.0)
    stage = Shout()
    for number in range(100):
        stage.error = RuntimeError(f"number {number}")
        taken(stage, Said("u"))
    assert len(stage._reported) == 1


def test_the_state_warns_until_something_succeeds() -> None:
    stage = Shout()
    taken(stage, partial("u1", "before"))
    assert stage.state() == State(0, "shout")
    stage.error = RuntimeError("broken")
    taken(stage, Said("u0", "word"))
    for event in (partial("u0"), partial("u2", "?"), Said("u1", "before")):  # over, unwanted, done ahead
        taken(stage, event)
        assert stage.state() == State(1, "shout failed on utterance u0: RuntimeError: broken")
    list(stage.take(Said("u3"), shed=True))
    assert stage.state().level == 1
    stage.error = None
    taken(stage, Said("u4"))
    assert stage.state().level == 0


# --- stages that transform


def test_every_event_is_answered_as_what_it_is() -> None:
    assert taken(Shout(), partial("u0", "a"), partial("u0", "b"), Said("u0", "c"), Said("u1", "d")) == [
        Answer("u0", "A", False),
        Answer("u0", "B", False),
        Answer("u0", "C"),
        Answer("u1", "D"),
    ]


def test_what_is_partial_of_an_utterance_that_is_over_is_left_out() -> None:
    stage = Shout()
    taken(stage, Said("u0", "a"))
    for number in range(1, REMEMBERED):
        assert len(taken(stage, partial(f"u{number}"), Said(f"u{number}"))) == 2
        worked = len(stage.worked)
        assert taken(stage, partial("u0", "late")) == taken(stage, partial(f"u{number}", "late")) == []
        assert len(stage.worked) == worked


def test_what_was_computed_ahead_is_taken_for_the_same_input() -> None:
    stage = Shout()
    taken(stage, partial("u0", "a"), partial("u1", "b"))
    assert taken(stage, Said("u1", "b"), partial("u0", "a"), Said("u0", "a")) == [
        Answer("u1", "B"),
        Answer("u0", "A", False),
        Answer("u0", "A"),
    ]
    assert stage.worked == [partial("u0", "a"), partial("u1", "b")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([partial("u0", "b")], Said("u0", "a")),
        ([partial("u1", "a")], Said("u0", "a")),
        ([partial("u0", "a"), partial("u0", "b")], Said("u0", "a")),
    ],
    ids=["other input", "other utterance", "other input since"],
)
def test_what_was_computed_ahead_is_not_taken_for_another_input(before: list[Said], after: Said) -> None:
    stage = Shout()
    taken(stage, *before)
    assert taken(stage, after) == [Answer("u0", "A")]
    assert stage.worked == [*before, after]


def test_what_was_computed_ahead_is_taken_once_and_forgotten_after_a_while_or_on_reset() -> None:
    stage = Shout()
    taken(stage, partial("u0", "a"), Said("u0", "a"), Said("u0", "a"))
    assert len(stage.worked) == 2  # the second final one is another utterance with the same id
    for number in range(1, 500):
        taken(stage, partial(f"u{number}", "a"))
    assert len(stage._ahead) == REMEMBERED
    stage.reset()
    count = len(stage.worked)
    taken(stage, partial("u0", "a"), Said("u499", "a"))
    assert len(stage.worked) == count + 2  # neither over nor done


@pytest.mark.parametrize("is_final", [False, True])
def test_work_that_raises_once_costs_one_answer(is_final: bool) -> None:
    stage = Shout()
    stage.error = RuntimeError("broken")
    assert taken(stage, Said("u0", "a", is_final)) == [Answer("u0", "nothing", is_final)]
    stage.error = None
    assert taken(stage, Said("u0" if not is_final else "u1", "a")) == [Answer("u1" if is_final else "u0", "A")]
    assert stage.state().level == 0


def test_an_answer_that_raises_is_given_without_what_failed() -> None:
    stage = Shout()
    stage.refuses = "A"
    assert taken(stage, Said("u0", "a"), Said("u1", "b")) == [Answer("u0", "nothing"), Answer("u1", "B")]
    assert stage.counts["errors"] == 1


@pytest.mark.parametrize("content", ["a", "?"])
def test_what_is_shed_is_answered_without_work(content: str) -> None:
    stage = Shout()
    assert list(stage.take(Said("u0", content), shed=True)) == [Answer("u0", "nothing")]
    assert stage.worked == []
    assert stage.counts["errors"] == stage.state().level == 0
    assert taken(stage, partial("u0", "late")) == []


def test_what_is_not_wanted_is_not_answered_even_when_work_is_not_possible() -> None:
    stage = Shout()
    assert taken(stage, partial("u0", "?")) == list(stage.take(partial("u0", "?"), shed=True)) == []
    assert taken(stage, Said("u0", "?")) == [Answer("u0", "?")]


# --- stages that join


def test_an_utterance_waits_for_its_part_which_may_come_first() -> None:
    stage = Pair()
    assert taken(stage, Said("u0", "a")) == []
    assert taken(stage, Part("u0", "b")) == [Answer("u0", "a+b")]
    assert taken(stage, Part("u1", "c"), Said("u1", "d")) == [Answer("u1", "d+c")]
    assert stage.parts == {}


def test_answers_leave_in_the_order_of_the_final_events() -> None:
    stage = Pair()
    assert taken(stage, partial("u1", "a"), partial("u0", "a"), Said("u0", "b"), Said("u1", "b"), Part("u1")) == []
    assert taken(stage, Part("u0")) == [Answer("u0", "b+"), Answer("u1", "b+")]


def test_a_partial_answer_waits_for_nobody_and_leaves_once() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"))
    assert taken(stage, partial("u1", "?"), partial("u2", "b"), Part("u2", "b", False)) == [
        Answer("u1", "?+", False),
        Answer("u2", "b+b", False),
    ]
    assert taken(stage, Part("u9")) == []  # nor anything again
    assert taken(stage, partial("u1", "?")) == [Answer("u1", "?+", False)]  # this is a new one


def test_a_final_answer_does_not_wait_for_a_partial_one() -> None:
    stage = Pair()
    assert taken(stage, partial("u0", "a"), Said("u1", "b"), Part("u1", "b")) == [Answer("u1", "b+b")]


def test_the_final_event_takes_the_place_of_the_partial_one() -> None:
    stage = Pair()
    taken(stage, partial("u0", "a"))
    assert taken(stage, Said("u0", "b"), Part("u0", "a", False)) == []
    assert taken(stage, partial("u0", "a")) == []  # over
    assert taken(stage, Part("u0", "b", False)) == [Answer("u0", "b+b")]


def test_parts_do_not_say_that_an_utterance_is_over() -> None:
    stage = Pair()
    assert taken(stage, Part("u0", "b"), partial("u0", "a")) == [Answer("u0", "a+b", False)]


def test_waiting_is_bounded_and_counts_from_when_the_final_event_came() -> None:
    stage = Pair()
    assert stage.due is None
    taken(stage, partial("u0", "a"))
    assert stage.due is None  # the person may go on speaking for as long as it takes
    before = time.monotonic()
    taken(stage, Said("u0", "a"), Said("u1", "b"), Part("u1", "c"))
    due = stage.due
    assert due is not None
    assert before <= due - PATIENCE <= time.monotonic()
    assert list(stage.advance(due - 1.0)) == []
    assert list(stage.advance(due)) == [Answer("u0", "a+"), Answer("u1", "b+c")]
    assert stage.due is None


def test_what_comes_after_the_answer_changes_nothing() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"))
    assert len(list(stage.advance(float("inf")))) == 1
    assert taken(stage, Part("u0"), partial("u0", "?")) == list(stage.flush()) == []


def test_what_is_shed_leaves_in_its_place_without_its_part() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"))
    assert list(stage.take(Said("u1", "b"), shed=True)) == []
    assert taken(stage, Said("u2", "c"), Part("u2"), Part("u0")) == [
        Answer("u0", "a+"),
        Answer("u1", "nothing"),
        Answer("u2", "c+"),
    ]


def test_a_join_that_raises_costs_one_answer() -> None:
    stage = Pair(log := Log())
    taken(stage, Said("u0", "a"), Said("u1", "b"), Said("u2", "c"), Part("u1"), Part("u2"))
    stage.broken = "u1"
    assert taken(stage, partial("u1"), Part("u0")) == [
        Answer("u0", "a+"),
        Answer("u1", "nothing"),
        Answer("u2", "c+"),
    ]
    assert log.errors[0].startswith("pair failed on utterance u1: ValueError: broken join")
    assert stage.state().level == 0  # the one behind it was joined


def test_a_join_that_always_raises_answers_everything_and_warns() -> None:
    stage = Pair(log := Log())
    stage.broken = "u0"
    for _ in range(1000):
        nothing = [Answer("u0", "nothing", False), Answer("u0", "nothing")]
        assert taken(stage, Part("u0"), partial("u0"), Said("u0")) == nothing
        assert taken(stage, Part("u9")) == []
        assert stage.state().level == 1
        assert stage.due is None
        stage.reset()
    assert (stage.counts["errors"], len(log.errors)) == (2000, 1)


def test_a_part_that_raises_costs_only_itself() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"))
    assert taken(stage, Part("u0", "bad")) == []
    assert stage.state().level == 1
    assert taken(stage, Part("u0", "b")) == [Answer("u0", "a+b")]


def test_flush_gives_what_waits_as_it_is_and_forgets_what_is_partial() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"), partial("u1", "b"), Said("u2", "c"))
    assert list(stage.flush()) == [Answer("u0", "a+"), Answer("u2", "c+")]
    assert list(stage.flush()) == taken(stage, Part("u1", "b")) == []


def test_reset_forgets_what_waits_and_what_is_over() -> None:
    stage = Pair()
    taken(stage, Said("u0", "a"))
    stage.reset()
    assert list(stage.flush()) == []
    assert taken(stage, partial("u0", "?")) == [Answer("u0", "?+", False)]


def test_utterances_that_never_end_take_no_memory() -> None:
    stage = Pair()
    taken(stage, Said("u", "waits"))
    for number in range(500):
        taken(stage, partial(f"u{number}", "a"))
    assert len(stage._waiting) == REMEMBERED + 1
    assert taken(stage, Part("u0"), Part("u499")) == [Answer("u499", "a+", False)]  # the oldest was forgotten
    assert only(stage.flush()) == Answer("u", "waits+")


CONTENTS = st.sampled_from(["a", "b", "?"])
PARTIAL = st.builds(partial, st.just("u"), CONTENTS)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_each_final_event_is_answered_once_in_order_and_nothing_partial_after_it(data: st.DataObject) -> None:
    """Several utterances; events of one topic keep their order, and topics overtake each other."""
    names = ["u0", "u1", "u2", "u3"]
    order = data.draw(st.permutations(names))
    topics: list[list[Any]] = [
        [
            replace(one, utterance_id=name)
            for name in order
            for one in [*data.draw(st.lists(PARTIAL, max_size=3)), Said("u", data.draw(CONTENTS))]
        ],
        [replace(one, utterance_id=data.draw(st.sampled_from(names))) for one in data.draw(st.lists(PARTIAL))],
        [
            Part(data.draw(st.sampled_from(names)), data.draw(CONTENTS), data.draw(st.booleans()))
            for _ in range(data.draw(st.integers(0, 8)))
        ],
    ]
    stage, answers = Pair(), []
    while left := [topic for topic in topics if topic]:
        event = data.draw(st.sampled_from(left)).pop(0)
        shed = isinstance(event, Said) and event.is_final and data.draw(st.integers(0, 9)) == 0
        answers += list(stage.take(event, shed=shed))
        if stage.due is not None and data.draw(st.integers(0, 9)) == 0:
            answers += list(stage.advance(stage.due))
    answers += list(stage.flush())
    assert [answer.utterance_id for answer in answers if answer.is_final] == order
    for name in names:
        assert [answer.is_final for answer in answers if answer.utterance_id == name][-1]
    assert stage.due is None
    assert not stage._waiting
