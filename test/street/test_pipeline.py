"""Stages one behind the other, and the thread that drives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from made_events import SECOND, Log, TextStub, VoiceStub, face, pausing, report, transcript, until, utterance

from synctva_ros.config import Fusion
from synctva_ros.events import Emotion, Evidence, Features, Modality, Status, Transcript, Utterance
from synctva_ros.street.fusion import FusionStage
from synctva_ros.street.pipeline import Host, Pipeline
from synctva_ros.street.stage import Stage, Transform
from synctva_ros.street.text import TextStage
from synctva_ros.street.voice import VoiceStage


class Toy(Stage):
    """Takes note of what it is given and does what it is told."""

    takes: ClassVar[tuple[type, ...]]

    def __init__(self, name: str, takes: type, gives: Callable[[Any], Iterable[Any]] = lambda event: ()) -> None:
        super().__init__(Log())
        self.name, self.takes, self._gives = name, (takes,), gives  # type: ignore[misc]
        self.given: list[Any] = []
        self.calls: list[str] = []
        self.until: float | None = None
        self.overdue: list[Any] = []
        self.left: list[Any] = []

    def process(self, event: Any) -> Iterable[Any]:
        self.given.append(event)
        return self._gives(event)

    def is_over(self, event: Any) -> bool:
        return False

    @property
    def due(self) -> float | None:
        return self.until

    def advance(self, now: float) -> Iterator[Any]:
        if self.until is not None and self.until <= now:
            self.until = None
            yield from self.overdue

    def flush(self) -> Iterator[Any]:
        yield from self.left

    def reset(self) -> None:
        self.calls.append("reset")

    def warm_up(self) -> None:
        self.calls.append("warm up")


class Last(Transform[Features, None]):
    """The end of a street: an answer to every utterance."""

    name: ClassVar[str] = "last"
    takes: ClassVar[tuple[type, ...]] = (Features,)

    def work(self, event: Features) -> None:
        pass

    def nothing(self, event: Features) -> None:
        pass

    def answer(self, event: Features, result: None) -> Iterator[Emotion]:
        given: dict[str, Any] = dict.fromkeys(Emotion.__annotations__)
        known = {name: value for name, value in vars(event).items() if name in given}
        status = Status.FINAL if event.is_final else Status.PROVISIONAL
        yield Emotion(**(given | known | {"status": status, "modalities": event.modalities}))


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


# --- stages one behind the other


def test_an_event_goes_to_the_stages_that_take_its_type_and_what_they_give_to_those_behind_them() -> None:
    first = Toy("first", int, lambda number: [str(number), number + 0.5])
    text = Toy("text", str, lambda text: [text.encode()])
    second = Toy("second", int, lambda number: [str(-number)])
    both = Toy("both", str, lambda text: [[text]])
    end = Toy("end", bytes)
    pipeline = Pipeline([first, text, second, both, end], Clock())
    assert list(pipeline.push(1)) == ["1", b"1", ["1"], 1.5, "-1", ["-1"]]
    assert (first.given, text.given, second.given, both.given, end.given) == ([1], ["1"], [1], ["1", "-1"], [b"1"])
    assert list(pipeline.push(b"x")) == list(pipeline.push(0.5)) == []
    assert list(pipeline.push("x")) == [b"x", ["x"]]
    assert first.given == [1]


def test_a_stage_does_not_get_what_it_gives_itself() -> None:
    stage = Toy("again", int, lambda number: [number + 1])
    pipeline = Pipeline([stage, Toy("behind", int, lambda number: [number + 10])], Clock())
    assert list(pipeline.push(1)) == [2, 12, 11]
    assert stage.given == [1]


def test_what_is_due_and_what_is_left_goes_on_to_the_stages_behind() -> None:
    first, second, third = Toy("first", int), Toy("second", int, lambda number: [str(number)]), Toy("third", str)
    pipeline = Pipeline([first, second, third], Clock())
    assert pipeline.due is None
    first.until, third.until = 3.0, 5.0
    first.overdue, third.overdue = [7], [b"late"]
    assert pipeline.due == 3.0
    assert list(pipeline.advance(2.0)) == []
    assert list(pipeline.advance(3.0)) == [7, "7"]
    assert pipeline.due == 5.0
    assert list(pipeline.advance()) == [b"late"]
    first.left, second.left = [8], ["rest"]
    assert list(pipeline.flush()) == [8, "8", "rest"]
    assert third.given == ["7", "8", "rest"]


def test_all_stages_are_warmed_up_and_reset() -> None:
    stages = [Toy("first", int), Toy("second", str)]
    pipeline = Pipeline(stages, Clock())
    pipeline.warm_up()
    pipeline.reset()
    assert [stage.calls for stage in stages] == [["warm up", "reset"]] * 2


def street(clock: Clock, **parameters: Any) -> tuple[Pipeline, FusionStage]:
    log = Log()
    fusion = FusionStage(Fusion(**parameters), log)
    fusion.expects = lambda modality: modality == "text"
    stages = [TextStage(TextStub(), log), VoiceStage(VoiceStub(), log), fusion, Last(log)]
    return Pipeline(stages, clock), fusion


def test_the_shares_of_the_stages_add_up_to_the_time_since_the_end_of_speech() -> None:
    clock = Clock()
    pipeline, _ = street(clock)
    turns = Toy("turns", int, lambda number: [utterance(number)])
    pipeline = Pipeline([turns, *pipeline.stages], clock)
    end = utterance(0).end
    clock.now = end + SECOND // 2
    given = list(pipeline.push(0))
    assert [type(event) for event in given] == [Utterance, Evidence]
    assert given[0].durations == {"turns": 0.5}
    clock.now = end + 3 * SECOND // 4
    _, features, emotion = pipeline.push(transcript(0))
    assert features.durations == {"turns": 0.5, "fusion": 0.25}
    assert emotion.durations == {"turns": 0.5, "fusion": 0.25, "last": 0.0, "total": 0.75}


@pytest.mark.parametrize("is_final", [False, True])
@pytest.mark.parametrize("spent", [0, 1, 123_456_789, 98_765_432_109])
def test_the_total_is_the_time_on_the_clock_of_the_stamps(spent: int, is_final: bool) -> None:
    clock = Clock()
    pipeline, _ = street(clock)
    event = utterance(170_000_000, is_final=is_final, durations={"turns": 0.1})
    clock.now = event.end + spent // 3
    list(pipeline.push(event))
    clock.now = event.end + spent
    (*_, emotion) = pipeline.push(transcript(170_000_000, is_final=is_final))
    shares = dict(emotion.durations)
    assert shares.pop("total") == spent / SECOND
    assert sum(shares.values()) == pytest.approx(spent / SECOND, abs=1e-9)
    assert list(shares) == ["turns", "fusion", "last"]


def test_the_total_is_no_share_when_another_stage_follows() -> None:
    clock = Clock()
    pipeline, _ = street(clock)
    behind = Toy("behind", Emotion, lambda emotion: [emotion])
    pipeline = Pipeline([*pipeline.stages, behind], clock)
    clock.now = utterance(0).end + SECOND
    *_, emotion, again = [*pipeline.push(transcript(0)), *pipeline.push(utterance(0))]
    assert emotion.durations == {"fusion": 1.0, "last": 0.0, "total": 1.0}
    assert again.durations == {"fusion": 1.0, "last": 0.0, "behind": 0.0, "total": 1.0}
    assert list(again.durations)[-1] == "total"


def test_what_is_shed_is_answered_by_all_stages_without_their_work() -> None:
    clock = Clock()
    pipeline, _ = street(clock)
    voice = pipeline.stages[1].encoder  # type: ignore[attr-defined]
    *_, features, emotion = pipeline.push(utterance(0), shed=True)
    assert voice.calls == 0
    assert (features.modalities, emotion.status) == (Modality(0), Status.FINAL)


def test_an_encoder_that_raises_costs_the_utterance_its_modality_and_nothing_else() -> None:
    pipeline, _ = street(Clock())
    text, voice = (stage.encoder for stage in pipeline.stages[:2])  # type: ignore[attr-defined]
    found = []
    for number in range(4):
        text.is_broken, voice.is_broken = number == 1, number in (1, 2)
        for event in (transcript(number), utterance(number)):
            found += [given for given in pipeline.push(event) if isinstance(given, Features)]
    both = Modality.TEXT | Modality.AUDIO
    assert [features.modalities for features in found] == [both, Modality(0), Modality.TEXT, both]
    assert [features.text for features in found] == ["some words"] * 4
    assert [stage.state().level for stage in pipeline.stages] == [0, 0, 0, 0]


def test_what_was_done_in_the_pause_is_not_done_again() -> None:
    pipeline, _ = street(Clock())
    text, voice = (stage.encoder for stage in pipeline.stages[:2])  # type: ignore[attr-defined]
    given = [
        given
        for event in (pausing(0), transcript(0, is_final=False), utterance(0))
        for given in pipeline.push(event)
        if isinstance(given, Emotion)
    ]
    assert [emotion.is_final for emotion in given] == [False, True]
    assert (text.calls, voice.calls) == (1, 1)
    list(pipeline.push(transcript(0)))
    assert text.calls == 1


def test_a_pause_that_brings_no_new_words_is_worked_ahead_of_too() -> None:
    """Who hums on after a pause: the end is another one, the words are not."""
    pipeline, _ = street(Clock())
    for end in (2.0, 3.0):
        given = [
            given
            for event in (pausing(0, end), transcript(0, end=end, is_final=False))
            for given in pipeline.push(event)
            if isinstance(given, Features)
        ]
        assert [(features.text, features.end) for features in given] == [("some words", round(end * SECOND))]


# --- on a thread


class Gate:
    """Work that waits until it is let go on, and remembers what it was given."""

    def __init__(self) -> None:
        self.answers: list[str] = ["done"]
        self.done: list[Any] = []
        self.threads: set[str] = set()
        self.begun, self.open = threading.Event(), threading.Event()
        self.stage = Toy("gate", object, self.work)

    def work(self, event: Any) -> list[Any]:
        self.begun.set()
        assert self.open.wait(60.0)
        self.done.append(event)
        self.threads.add(threading.current_thread().name)
        if event == "bad":
            raise ValueError("bad event")
        return [(answer, event) for answer in self.answers]


class Desk:
    """A host with a gate, and what it gives."""

    def __init__(self, stage: Stage | None = None, size: int = 100, **options: Any) -> None:
        self.gate = Gate()
        self.given: list[Any] = []
        self.errors: list[str] = []
        self.refuses: Any = None
        pipeline = Pipeline([stage or self.gate.stage], Clock())
        self.host = Host("h", pipeline, self.give, size, lambda error: self.errors.append(str(error)), **options)

    def give(self, event: Any) -> None:
        if event == self.refuses:
            raise OSError("no publisher")
        self.given.append(event)

    def wait_for(self, number: int) -> None:
        until(lambda: len(self.given) >= number, time.sleep)


@pytest.fixture
def make() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def build(*arguments: Any, **options: Any) -> Desk:
        desks.append(Desk(*arguments, **options))
        return desks[-1]

    yield build
    for desk in desks:
        desk.gate.open.set()
        desk.host.stop()


def test_events_are_worked_on_in_order_on_one_other_thread(make: Callable[..., Desk]) -> None:
    desk = make()
    desk.gate.open.set()
    for number in range(100):
        assert desk.host.put(number)
    desk.wait_for(100)
    assert desk.given == [("done", number) for number in range(100)]
    assert desk.gate.threads == {"h"}
    assert desk.errors == []


def test_nobody_who_puts_waits_for_the_work(make: Callable[..., Desk]) -> None:
    desk = make(size=2)
    desk.host.put("first")
    assert desk.gate.begun.wait(60.0)
    assert [desk.host.put(utterance(number)) for number in range(4)] == [True, True, False, False]
    desk.gate.open.set()
    until(lambda: desk.host.inbox.waiting == 0 and len(desk.gate.done) == 3, time.sleep)
    assert [event.utterance_id for event in desk.gate.done[1:]] == ["m_0", "m_1"]  # the others need no work


def test_what_cannot_be_worked_on_or_given_out_keeps_nothing_back(make: Callable[..., Desk]) -> None:
    desk = make()
    desk.gate.answers.append("again")
    desk.gate.open.set()
    desk.refuses = ("done", "b")
    for event in ("a", "bad", "b", "c"):
        desk.host.put(event)
    desk.wait_for(5)
    assert desk.given == [("done", "a"), ("again", "a"), ("again", "b"), ("done", "c"), ("again", "c")]
    assert desk.errors == ["no publisher"]
    assert desk.gate.stage.counts["errors"] == 1


def test_a_stage_that_breaks_its_promise_does_not_end_the_thread(make: Callable[..., Desk]) -> None:
    class Broken(Toy):
        def take(self, event: Any, *, shed: bool = False) -> Iterator[Any]:
            if event == "bad":
                raise RuntimeError("unexpected")
            yield event

    desk = make(Broken("broken", str))
    for event in ("a", "bad", "b"):
        desk.host.put(event)
    desk.wait_for(2)
    assert (desk.given, desk.errors) == (["a", "b"], ["unexpected"])


def test_stop_waits_for_the_event_in_work_and_says_what_is_given_up(make: Callable[..., Desk]) -> None:
    desk, given_up = make(size=2), []
    desk.host.put("in work")
    assert desk.gate.begun.wait(60.0)
    for event in (utterance(0), utterance(1), utterance(2), pausing(3), transcript(0), "other"):
        desk.host.put(event)
    stopping = threading.Thread(target=lambda: given_up.append(desk.host.stop()))
    stopping.start()
    until(lambda: desk.host.inbox.closed, time.sleep)
    assert stopping.is_alive()
    desk.gate.open.set()
    stopping.join(60.0)
    assert given_up == [4]
    assert desk.given == [("done", "in work")]


def test_stop_of_idle_hosts_leaves_no_thread_and_may_be_repeated() -> None:
    desks = [Desk() for _ in range(10)]
    assert sum(thread.name == "h" for thread in threading.enumerate()) == 10
    for desk in desks:
        assert desk.host.stop() == desk.host.stop() == 0
    assert not any(thread.name == "h" for thread in threading.enumerate())


def test_the_thread_is_prepared_once_before_the_first_event(make: Callable[..., Desk]) -> None:
    where: list[str] = []
    desk = make(prepare=lambda: where.append(threading.current_thread().name))
    desk.gate.open.set()
    desk.host.put(0)
    desk.host.put(1)
    desk.wait_for(2)
    assert where == ["h"]


def test_what_is_due_is_given_though_nothing_comes_and_not_before(make: Callable[..., Desk]) -> None:
    stage = Toy("waits", str, lambda event: [event])
    stage.overdue = ["late"]
    desk = make(stage)
    stage.until = begun = time.monotonic() + 0.05
    desk.host.put("wakes the thread up, which then sees when something is due")
    desk.wait_for(2)
    assert time.monotonic() >= begun
    assert desk.given[1] == "late"
    stage.until = time.monotonic() + 3600.0
    desk.host.put("first")
    desk.host.put("second")
    desk.wait_for(4)
    assert desk.given[2:] == ["first", "second"]


def test_the_thread_sleeps_between_events_whatever_fails(make: Callable[..., Desk]) -> None:
    class Counted(Toy):
        asked = 0

        @property
        def due(self) -> float | None:
            self.asked += 1
            return self.until

    def broken(event: Any) -> list[Any]:
        raise RuntimeError("broken")

    stage = Counted("broken", int, broken)
    stage.without = lambda event: [event]  # type: ignore[method-assign]
    stage.until = time.monotonic() + 3600.0
    desk = make(stage)
    for number in range(200):
        desk.host.put(number)
        desk.wait_for(number + 1)
    assert desk.given == list(range(200))
    assert stage.asked <= 2 * 200 + 2  # each time that it looks into the empty queue, and when it is woken
    assert len(stage.log.errors) == 1  # type: ignore[attr-defined]


def test_words_that_do_not_come_are_done_without_in_time(make: Callable[..., Desk]) -> None:
    log = Log()
    fusion = FusionStage(Fusion(transcript_timeout=0.05), log)
    fusion.expects = lambda modality: modality == "text"
    desk = make(fusion)
    before = time.monotonic()
    desk.host.put(utterance(0))
    desk.wait_for(1)
    assert time.monotonic() - before >= 0.05
    assert [event.utterance_id for event in desk.given] == ["m_0"]
    assert fusion.counts["without words in time"] == len(log.warnings) == 1


def test_a_thread_gives_what_the_pipeline_gives_by_itself(make: Callable[..., Desk]) -> None:
    events = [
        event
        for number in range(20)
        for event in (
            report(10 * number + 1.0, face(value=number)),
            *((transcript(number), utterance(number)) if number % 3 else (utterance(number), transcript(number))),
        )
    ]
    pipeline, _ = street(Clock())
    expected = [given for event in events for given in pipeline.push(event)]
    hosted, _ = street(Clock())
    desk = make()
    host = Host("h", hosted, desk.given.append, 100, lambda error: desk.errors.append(str(error)))
    for event in events:
        host.put(event)
    desk.wait_for(len(expected))
    assert host.stop() == 0
    assert [type(event) for event in desk.given] == [type(event) for event in expected]
    for found, plain in zip(desk.given, expected, strict=True):
        if isinstance(found, Features):
            assert found.is_same_input(plain)
            assert (found.text, found.face_id, found.modalities) == (plain.text, plain.face_id, Modality(7))
        assert found.utterance_id == plain.utterance_id
    assert sum(isinstance(event, Emotion) for event in desk.given) == 20


def test_nothing_is_lost_or_doubled_when_many_put(make: Callable[..., Desk]) -> None:
    class Words(Transform[Transcript, str]):
        name: ClassVar[str] = "words"
        takes: ClassVar[tuple[type, ...]] = (Transcript,)

        def work(self, event: Transcript) -> str:
            return event.text

        def nothing(self, event: Transcript) -> str:
            raise AssertionError

        def answer(self, event: Transcript, result: str) -> Iterator[Any]:
            yield event.model_id, result, event.is_final

    desk = make(Words(Log()))

    def put(who: str) -> None:
        for number in range(200):
            desk.host.put(transcript(number, f"{number}", model_id=who, utterance_id=f"{who}{number}", is_final=False))
            desk.host.put(transcript(number, f"{number}", model_id=who, utterance_id=f"{who}{number}"))

    threads = [threading.Thread(target=put, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    until(lambda: sum(final for _, _, final in desk.given) == 800, time.sleep)
    for who in "abcd":
        assert [text for name, text, final in desk.given if final and name == who] == list(map(str, range(200)))
        assert np.all(np.diff([int(text) for name, text, _ in desk.given if name == who]) >= 0)
