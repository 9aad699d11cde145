from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from synctva_ros.network.graphs import SPEAKER_RELATIONS, connect_turns
from synctva_ros.network.synctva import DialogueBatch, SyncTVA, SyncTVAConfig

WIDTHS = (12, 9, 7)
SMALL = SyncTVAConfig(widths=WIDTHS, classes=5, hidden=16, heads=2, layers=2, window=3)


def make_model(config: SyncTVAConfig = SMALL) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    # The shares start out equal; give them something to tell apart.
    torch.nn.init.normal_(model.fusion.share_query)
    return model.eval()


def make_batch(lengths: tuple[int, ...], seed: int = 0) -> DialogueBatch:
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    mask = torch.rand(n, 3, generator=generator) < 0.6
    mask[torch.arange(n), torch.randint(3, (n,), generator=generator)] = True
    start = torch.arange(n) * 3.0 + torch.rand(n, generator=generator)
    text, audio, vision = (torch.randn(n, width, generator=generator) for width in WIDTHS)
    return DialogueBatch(
        text=text,
        audio=audio,
        vision=vision,
        mask=mask,
        start=start,
        end=start + 2.0,
        speaker=torch.randint(-1, 3, (n,), generator=generator),
        dialogue=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
    )


def rows(batch: DialogueBatch, chosen: slice | Tensor) -> DialogueBatch:
    return DialogueBatch(**{name: tensor[chosen] for name, tensor in vars(batch).items()})


def test_shapes_and_sums() -> None:
    batch = make_batch((6, 1, 4))
    output = make_model()(batch)
    assert output.logits.shape == (11, 5)
    assert torch.isfinite(output.logits).all()
    torch.testing.assert_close(output.contributions.sum(1), torch.ones(11))
    assert (output.contributions[~batch.mask] == 0).all()
    assert (output.contributions[batch.mask] > 0).all()


def test_default_network_is_small() -> None:
    parameters = sum(p.numel() for p in SyncTVA(SyncTVAConfig(widths=(384, 212, 900))).parameters())
    assert parameters < 1_250_000


def test_context_shares_sum_to_one_and_stay_in_the_window() -> None:
    batch = replace(make_batch((8, 3)), mask=torch.ones(11, 3, dtype=torch.bool))
    output = make_model()(batch)
    source, target = output.context_index
    assert (source < target).all()
    assert (target - source <= SMALL.window).all()
    assert (batch.dialogue[source] == batch.dialogue[target]).all()
    total = torch.zeros(11).index_add(0, target, output.context_weight)
    first_of_dialogue = torch.tensor([0, 8])
    expected = torch.ones(11).index_fill(0, first_of_dialogue, 0.0)
    torch.testing.assert_close(total, expected)


def test_a_turn_without_the_modality_gives_no_context() -> None:
    """Audio now, text before: there is no node of text now, so no edge over time, and nothing is claimed."""
    batch = make_batch((2,))
    batch = replace(batch, mask=torch.tensor([[True, False, False], [False, True, False]]))
    output = make_model()(batch)
    assert output.context_weight.tolist() == [0.0]


@pytest.mark.parametrize("present", [(t, a, v) for t in (0, 1) for a in (0, 1) for v in (0, 1) if t or a or v])
def test_what_is_behind_the_mask_is_not_read(present: tuple[int, int, int]) -> None:
    model = make_model()
    batch = make_batch((5,))
    mask = torch.tensor(present, dtype=torch.bool).expand(5, 3)
    batch = replace(batch, mask=mask)
    hidden = replace(
        batch,
        **{
            name: torch.where(mask[:, m : m + 1], getattr(batch, name), torch.nan)
            for m, name in enumerate(("text", "audio", "vision"))
        },
    )
    plain, other = model(batch), model(hidden)
    assert torch.equal(plain.logits, other.logits)
    assert torch.equal(plain.contributions, other.contributions)
    assert torch.equal(plain.context_weight, other.context_weight)


def test_missing_is_not_zeros() -> None:
    model = make_model()
    batch = replace(make_batch((4,)), mask=torch.ones(4, 3, dtype=torch.bool))
    zeros = replace(batch, audio=torch.zeros_like(batch.audio))
    without = replace(zeros, mask=torch.tensor([True, False, True]).expand(4, 3))
    assert not torch.allclose(model(zeros).logits, model(without).logits, atol=1e-4)


# Shrinking a failure of a network takes minutes and tells nothing more.
QUICK = settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def change_after(batch: DialogueBatch, cut: int, other: DialogueBatch) -> DialogueBatch:
    """``batch`` up to ``cut``, then ``other``."""
    return DialogueBatch(**{name: torch.cat([t[:cut], vars(other)[name][cut:]]) for name, t in vars(batch).items()})


@QUICK
@given(seed=st.integers(0, 1000), cut=st.integers(1, 7), scale=st.floats(0.01, 100.0), later=st.floats(0.0, 500.0))
def test_causal_later_vectors_and_times_change_no_bit(seed: int, cut: int, scale: float, later: float) -> None:
    model = make_model()
    batch, other = make_batch((8,), seed), make_batch((8,), seed + 1)
    other = replace(
        other,
        **{name: getattr(other, name) * scale for name in ("text", "audio", "vision")},
        mask=batch.mask,
        speaker=batch.speaker,
        start=other.start + later,
        end=other.end + later,
    )
    plain, moved = model(batch), model(change_after(batch, cut, other))
    assert not torch.equal(plain.logits[cut:], moved.logits[cut:])
    assert torch.equal(plain.logits[:cut], moved.logits[:cut])
    assert torch.equal(plain.contributions[:cut], moved.contributions[:cut])
    before = plain.context_index[1] < cut
    assert torch.equal(plain.context_weight[before], moved.context_weight[before])


@QUICK
@given(seed=st.integers(0, 1000), cut=st.integers(1, 7))
def test_causal_later_modalities_and_speakers_change_nothing(seed: int, cut: int) -> None:
    """With other edges the matrix products have other sizes, and a CPU may round them otherwise: no more than that."""
    model = make_model()
    batch, other = make_batch((8,), seed), make_batch((8,), seed + 1)
    plain, moved = model(batch), model(change_after(batch, cut, other))
    torch.testing.assert_close(plain.logits[:cut], moved.logits[:cut], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plain.contributions[:cut], moved.contributions[:cut], atol=1e-6, rtol=1e-5)


def test_causal_output_is_that_of_the_talk_so_far() -> None:
    model = make_model()
    batch = make_batch((9,))
    whole = model(batch).logits
    for n in range(1, 10):
        torch.testing.assert_close(model(rows(batch, slice(n))).logits, whole[:n], atol=1e-5, rtol=1e-5)


def test_turns_out_of_reach_do_not_matter() -> None:
    model = make_model()
    batch = make_batch((20,))
    assert SMALL.reach == 9
    batch = replace(batch, mask=torch.ones(20, 3, dtype=torch.bool))
    whole = model(batch).logits[-1]
    torch.testing.assert_close(model(rows(batch, slice(20 - SMALL.reach - 1, 20))).logits[-1], whole)
    shorter = model(rows(batch, slice(20 - SMALL.reach, 20))).logits[-1]
    assert not torch.equal(shorter, whole)


def test_full_context_sees_the_future() -> None:
    model = make_model(replace(SMALL, context="full"))
    batch = make_batch((6,))
    changed = replace(batch, text=batch.text.clone())
    changed.text[-1] += 1.0
    changed.mask[-1] = True
    assert not torch.equal(model(batch).logits[-2], model(changed).logits[-2])


@pytest.mark.parametrize("context", ["causal", "full"])
def test_a_batch_equals_each_dialogue_alone(context: Literal["causal", "full"]) -> None:
    model = make_model(replace(SMALL, context=context))
    batch = make_batch((5, 1, 7, 2))
    together = model(batch)
    for dialogue in range(4):
        own = batch.dialogue == dialogue
        alone = model(rows(batch, own))
        torch.testing.assert_close(alone.logits, together.logits[own], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.contributions, together.contributions[own], atol=1e-5, rtol=1e-5)


def test_speakers_are_told_apart_and_their_numbers_are_not() -> None:
    model = make_model()
    batch = replace(make_batch((4,)), mask=torch.ones(4, 3, dtype=torch.bool))
    by_speakers = [
        model(replace(batch, speaker=torch.tensor(speaker))).logits[-1]
        for speaker in ([0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0], [-1, -1, -1, -1])
    ]
    assert torch.equal(by_speakers[0], by_speakers[1])
    assert not torch.allclose(by_speakers[0], by_speakers[2])
    assert not torch.allclose(by_speakers[2], by_speakers[3])


def test_seconds_between_turns_matter_and_the_clock_does_not() -> None:
    model = make_model()
    batch = replace(make_batch((4,)), mask=torch.ones(4, 3, dtype=torch.bool))
    shifted = replace(batch, start=batch.start + 64.0, end=batch.end + 64.0)
    torch.testing.assert_close(model(batch).logits, model(shifted).logits, atol=1e-4, rtol=1e-4)
    slower = replace(batch, start=batch.start * 10, end=batch.start * 10 + 2.0)
    assert not torch.allclose(model(batch).logits[-1], model(slower).logits[-1])


def test_pairs_and_their_features() -> None:
    turns = connect_turns(
        start=torch.tensor([0.0, 3.0, 4.0, 0.0]),
        end=torch.tensor([2.0, 5.0, 6.0, 1.0]),
        speaker=torch.tensor([0, 1, -1, 0]),
        dialogue=torch.tensor([0, 0, 0, 1]),
        window=2,
    )
    assert turns.index.T.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert turns.distance.tolist() == [1, 1, 2]
    assert [SPEAKER_RELATIONS[r] for r in turns.relation] == ["other_speaker", "unknown_speaker", "unknown_speaker"]
    expected = torch.tensor([[0.5, 2.0], [0.5, 1.0], [1.0, 3.0]])
    expected[:, 1] = expected[:, 1].log()
    torch.testing.assert_close(turns.features, expected)


def test_every_parameter_learns() -> None:
    model = make_model().train()
    batch = make_batch((40,))
    # All relations must have nodes with two edges or more: attention over one edge has nothing to learn.
    batch = replace(batch, mask=torch.ones(40, 3, dtype=torch.bool), speaker=(torch.arange(40) // 10 % 2) - 1)
    batch.speaker[20:] = torch.arange(20) // 2 % 2
    model(batch).logits.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_probabilities_use_the_temperatures() -> None:
    model = make_model()
    output = model(make_batch((6,)))
    torch.testing.assert_close(model.probabilities(output), torch.softmax(output.logits, dim=-1))
    model.temperature = (4.0, 2.0, 0.5)
    text, audio, vision = output.contributions.unbind(1)
    divisor = (4.0 * text + 2.0 * audio + 0.5 * vision).unsqueeze(-1)
    torch.testing.assert_close(model.probabilities(output), torch.softmax(output.logits / divisor, dim=-1))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"widths": (3, 0, 3)}, "widths"),
        ({"hidden": 10, "heads": 4}, "multiple of heads"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"context": "both"}, "'causal' or 'full'"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_config_refuses(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **setting)


def test_batches_refused() -> None:
    model = make_model()
    batch = make_batch((3,))
    with pytest.raises(ValueError, match="row 1 has no modality"):
        model(replace(batch, mask=torch.tensor([[True] * 3, [False] * 3, [True] * 3])))
    with pytest.raises(ValueError, match="vectors of width"):
        model(replace(batch, text=batch.text[:, :-1]))
    with pytest.raises(ValueError, match="put each dialogue's rows together"):
        model(replace(batch, dialogue=torch.tensor([0, 1, 0])))
