from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from synctva_ros.events import NANOSECONDS
from synctva_ros.network import incremental
from synctva_ros.network.graphs import Turns, connect_turns
from synctva_ros.network.incremental import CapturedStep, State, Utterances, blank, captured, step
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig, SyncTVAOutput

WIDTHS = (12, 9, 7)
SMALL = SyncTVAConfig(widths=WIDTHS, classes=5, hidden=16, heads=2, window=3)
QUICK = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
SPEAKERS = 4
NEVER = -(1 << 62)

configs = st.builds(
    SyncTVAConfig,
    widths=st.sampled_from([WIDTHS, WIDTHS, (12, 9, 0), (12, 0, 7), (0, 9, 7), (12, 0, 0), (0, 0, 7)]),
    classes=st.just(5),
    hidden=st.just(16),
    heads=st.just(2),
    layers=st.integers(1, 3),
    window=st.integers(1, 4),
    without=st.one_of(st.just(()), st.lists(st.sampled_from(PARTS), unique=True).map(tuple)),
)


def make_model(config: SyncTVAConfig = SMALL) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    torch.nn.init.normal_(model.fusion.share_query)
    model.temperature = (1.5, 0.7, 1.0)
    return model.eval()


def make_dialogues(config: SyncTVAConfig, lines: int, turns: int, seed: int) -> DialogueBatch:
    """Dialogues of as many turns, which overlap and go back in time, by quarters of a second."""
    generator = torch.Generator().manual_seed(seed)
    count = lines * turns
    mask = torch.rand(count, 3, generator=generator) < 0.6
    own = torch.tensor(config.modalities)
    mask[torch.arange(count), own[torch.randint(len(own), (count,), generator=generator)]] = True
    start = (torch.randint(-8, 40, (lines, turns), generator=generator) / 4).cumsum(dim=1).flatten()
    length = torch.randint(1, 16, (count,), generator=generator) / 4
    text, audio, vision = (torch.randn(count, width, generator=generator) for width in config.widths)
    text[~mask[:, 0]] = torch.nan
    speaker = torch.randint(-1, SPEAKERS, (count,), generator=generator)
    dialogue = torch.arange(lines).repeat_interleave(turns)
    return DialogueBatch(text, audio, vision, mask, start, start + length, speaker, dialogue)


def walk(
    model: SyncTVA, dialogues: DialogueBatch, state: State, shift: int = 0, age: int | None = None, run: Any = step
) -> Iterator[tuple[SyncTVAOutput, State]]:
    """The dialogues turn by turn, at times that are this many seconds later."""
    lines = len(state.mask)
    columns = {field.name: getattr(dialogues, field.name).unflatten(0, (lines, -1)) for field in fields(dialogues)}
    del columns["dialogue"]
    for name in ("start", "end"):
        columns[name] = (columns[name].double() * NANOSECONDS).long() + shift * NANOSECONDS
    for turn in range(columns["mask"].shape[1]):
        now = {name: column[:, turn] for name, column in columns.items()}
        oldest = torch.full((lines,), NEVER) if age is None else now["start"] - age * NANOSECONDS
        with torch.inference_mode():
            output, state = run(model, state, Utterances(**now, oldest=oldest))
        yield output, state


def check(model: SyncTVA, dialogues: DialogueBatch, walked: list[tuple[SyncTVAOutput, State]]) -> None:
    with torch.inference_mode():
        expected = model(dialogues)
    outputs = [output for output, _ in walked]
    found = torch.stack([model.probabilities(output) for output in outputs], dim=1).flatten(0, 1)
    torch.testing.assert_close(found, model.probabilities(expected), atol=1e-5, rtol=0.0)
    shares = torch.stack([output.shares for output in outputs], dim=1).flatten(0, 1)
    torch.testing.assert_close(shares, expected.shares, atol=1e-5, rtol=0.0)
    votes = torch.stack([output.votes for output in outputs], dim=1).flatten(0, 1)
    torch.testing.assert_close(votes[dialogues.mask], expected.votes[dialogues.mask], atol=1e-4, rtol=0.0)
    if expected.memory is not None:
        last = walked[-1][1]
        torch.testing.assert_close(last.dialogue, expected.memory.dialogue, atol=1e-5, rtol=0.0)
        columns = expected.memory.speakers.shape[1]
        torch.testing.assert_close(last.speakers[:, :columns], expected.memory.speakers, atol=1e-5, rtol=0.0)


@QUICK
@given(config=configs, lines=st.integers(1, 3), turns=st.integers(1, 14), seed=st.integers(0, 10_000))
def test_turn_by_turn_is_what_the_whole_dialogues_give(
    config: SyncTVAConfig, lines: int, turns: int, seed: int
) -> None:
    model, dialogues = make_model(config), make_dialogues(config, lines, turns, seed)
    start = blank(config, lines, SPEAKERS)
    walked = list(walk(model, dialogues, start))
    check(model, dialogues, walked)
    assert [tensor.shape for tensor in walked[-1][1]] == [tensor.shape for tensor in start]


def in_reach(turns: int, age: int | None) -> Any:
    """``connect_turns`` with only the edges to this many turns back, and to none that was ever too old."""

    def connect(
        start: Tensor, end: Tensor, speaker: Tensor, dialogue: Tensor, window: int, full_context: bool = False
    ) -> Turns:
        edges = connect_turns(start, end, speaker, dialogue, window, full_context)
        source, target = edges.index
        near = target - source <= turns
        if age is not None:
            latest = torch.stack([start[s + 1 : t + 1].max() for s, t in edges.index.t().tolist()] or [start[0]])
            near &= latest[: len(near)] - end[source] <= age
        return Turns(edges.index[:, near], edges.type[near], edges.features[near])

    return patch("synctva_ros.network.synctva.connect_turns", connect)


@QUICK
@given(config=configs, kept=st.integers(0, 3), age=st.sampled_from([None, 2, 5, 10]), seed=st.integers(0, 10_000))
def test_turns_out_of_reach_have_no_edges(config: SyncTVAConfig, kept: int, age: int | None, seed: int) -> None:
    kept = min(kept, config.window)
    model, dialogues = make_model(config), make_dialogues(config, 2, 10, seed)
    walked = list(walk(model, dialogues, blank(config, 2, SPEAKERS, kept), age=age))
    with in_reach(kept, age):
        check(model, dialogues, walked)


def test_the_test_would_notice_a_turn_too_many() -> None:
    config = replace(SMALL, layers=2)
    model, dialogues = make_model(config), make_dialogues(config, 2, 10, 0)
    with pytest.raises(AssertionError):
        check(model, dialogues, list(walk(model, dialogues, blank(config, 2, SPEAKERS, 2))))


@pytest.mark.parametrize("shift", [50_000, 1_800_000_000])
def test_times_of_a_long_dialogue_keep_their_precision(shift: int) -> None:
    """To the last bit; as float32 they would be off by milliseconds, and by minutes since 1970."""
    model, dialogues = make_model(), make_dialogues(SMALL, 2, 10, 3)
    near = walk(model, dialogues, blank(SMALL, 2, SPEAKERS))
    for (a, _), (b, _) in zip(near, walk(model, dialogues, blank(SMALL, 2, SPEAKERS), shift), strict=True):
        assert torch.equal(a.logits, b.logits)


def test_a_step_leaves_the_state_as_it_is() -> None:
    model, dialogues = make_model(), make_dialogues(SMALL, 2, 6, 0)
    *_, (_, state) = walk(model, dialogues, blank(SMALL, 2, SPEAKERS))
    before = [tensor.clone() for tensor in state]
    list(walk(model, dialogues, state))
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


def test_lines_do_not_touch_each_other() -> None:
    model, dialogues = make_model(), make_dialogues(SMALL, 2, 6, 0)
    other = replace(dialogues, audio=torch.cat([dialogues.audio[:6], torch.randn(6, 9)]))
    for (a, _), (b, _) in zip(
        walk(model, dialogues, blank(SMALL, 2, SPEAKERS)), walk(model, other, blank(SMALL, 2, SPEAKERS)), strict=True
    ):
        assert torch.equal(a.logits[0], b.logits[0])


@pytest.mark.parametrize(
    "config", [replace(SMALL, layers=2), replace(SMALL, widths=(12, 0, 7)), replace(SMALL, without=PARTS)]
)
def test_a_step_is_one_graph(config: SyncTVAConfig) -> None:
    """Nothing in it looks at a value, so that it can be captured; a compiler that met such a thing would break off."""
    model, dialogues = make_model(config), make_dialogues(config, 2, 1, 0)
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    check(model, dialogues, list(walk(model, dialogues, blank(config, 2, SPEAKERS), run=compiled)))


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="choose a causal one"):
        blank(replace(SMALL, context="full"), 1, 1)
    for speakers, turns in ((0, 1), (1, 4), (1, -1)):
        with pytest.raises(ValueError, match="up to 3 turns, the network's window"):
            blank(SMALL, 1, speakers, turns)


def example(device: str) -> tuple[SyncTVA, State, Utterances]:
    model, dialogues = make_model().to(device), make_dialogues(SMALL, 2, 1, 0).to(device)
    times = [(time.double() * NANOSECONDS).long() for time in (dialogues.start, dialogues.end)]
    oldest = torch.full((2,), NEVER, device=device)
    spoken = Utterances(
        dialogues.text, dialogues.audio, dialogues.vision, dialogues.mask, times[0], times[1], dialogues.speaker, oldest
    )
    return model, blank(SMALL, 2, SPEAKERS, device=device), spoken


@torch.inference_mode()
@pytest.mark.parametrize("trouble", ["raises", "is off", "is not a number"])
def test_without_a_sound_capture_the_step_stays_plain(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, state, spoken = example("cpu")

    def call(state: State, spoken: Utterances) -> tuple[Tensor, State]:
        output, after = step(model, state, spoken)
        return output.logits, after

    def capture(call: object, state: State, spoken: Utterances) -> object:
        if trouble == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        change = 2e-4 if trouble == "is off" else torch.nan
        return lambda state, spoken: (step(model, state, spoken)[0].logits + change, state)

    monkeypatch.setattr(incremental, "CapturedStep", capture)
    with caplog.at_level(logging.WARNING):
        assert captured(call, state, spoken) is call
    assert len(caplog.records) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_a_captured_step_is_the_plain_one() -> None:
    model, state, spoken = example("cuda")

    def call(state: State, spoken: Utterances) -> tuple[Tensor, State]:
        output, after = step(model, state, spoken)
        return output.logits, after

    graph = captured(call, state, spoken)
    assert isinstance(graph, CapturedStep)
    for _ in range(5):
        spoken = spoken._replace(audio=torch.randn_like(spoken.audio), start=spoken.start + 3, end=spoken.end + 3)
        expected, after = call(state, spoken)
        found, state = graph(state, spoken)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)
        for a, b in zip(state, after, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0.0)
