from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from synctva_ros.network.enhancement import MemoryState
from synctva_ros.network.graphs import EDGE_TYPES, connect_turns
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig

WIDTHS = (12, 9, 7)
SMALL = SyncTVAConfig(widths=WIDTHS, classes=5, hidden=16, heads=2, layers=2, window=3)
SUBSETS = [
    tuple(m in chosen for m in range(3)) for size in (1, 2, 3) for chosen in itertools.combinations(range(3), size)
]
# Shrinking a failure of a network takes minutes and says nothing more.
QUICK = settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def make_model(config: SyncTVAConfig = SMALL) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    # The shares start out equal; give them something to distinguish.
    torch.nn.init.normal_(model.fusion.share_query)
    return model.eval()


def make_batch(lengths: tuple[int, ...], seed: int = 0, widths: tuple[int, int, int] = WIDTHS) -> DialogueBatch:
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    mask = torch.rand(n, 3, generator=generator) < 0.6
    mask[torch.arange(n), torch.randint(3, (n,), generator=generator)] = True
    start = torch.arange(n) * 3.0 + torch.rand(n, generator=generator)
    text, audio, vision = (torch.randn(n, width, generator=generator) for width in widths)
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


def complete(batch: DialogueBatch) -> DialogueBatch:
    """The same with all modalities there."""
    return replace(batch, mask=torch.ones_like(batch.mask))


def rows(batch: DialogueBatch, chosen: slice | Tensor) -> DialogueBatch:
    return DialogueBatch(**{name: tensor[chosen] for name, tensor in vars(batch).items()})


def test_shapes_and_sums() -> None:
    batch = make_batch((6, 1, 4))
    output = make_model()(batch)
    assert output.logits.shape == (11, 5)
    assert output.votes.shape == (11, 3, 5)
    assert output.shares.shape == (11, 3)
    assert output.memory.dialogue.shape == (3, 16)
    assert output.memory.speakers.shape == (3, 3, 16)
    assert torch.isfinite(output.logits).all()
    torch.testing.assert_close(output.shares.sum(1), torch.ones(11))
    assert (output.shares[~batch.mask] == 0).all()
    assert (output.shares[batch.mask] > 0).all()
    torch.testing.assert_close((output.shares.unsqueeze(-1) * output.votes).sum(1), output.logits)


def test_the_default_network_is_small() -> None:
    parameters = sum(p.numel() for p in SyncTVA(SyncTVAConfig(widths=(1152, 212, 900))).parameters())
    assert parameters <= 8_000_000


@pytest.mark.parametrize("lengths", [(1,), (500,), (1, 500, 1)])
def test_dialogues_of_any_length(lengths: tuple[int, ...]) -> None:
    batch = make_batch(lengths)
    for config in (SMALL, replace(SMALL, context="full")):
        with torch.inference_mode():
            output = make_model(config)(batch)
        assert output.logits.shape == (sum(lengths), 5)
        assert torch.isfinite(output.logits).all()


def test_it_answers_the_same_each_time() -> None:
    batch = make_batch((6, 3))
    model = make_model()
    first, second, other = model(batch), model(batch), make_model()(batch)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.logits, other.logits)
    noisy = model.train()
    assert not torch.equal(noisy(batch).logits, noisy(batch).logits)


@pytest.mark.parametrize("present", SUBSETS)
@pytest.mark.parametrize("context", ["causal", "full"])
def test_what_is_behind_the_mask_is_not_read(present: tuple[bool, ...], context: Literal["causal", "full"]) -> None:
    model = make_model(replace(SMALL, context=context))
    for mask in (torch.tensor(present).expand(6, 3), make_batch((6,)).mask | torch.tensor(present)):
        batch = replace(make_batch((6,)), mask=mask)
        hidden = replace(
            batch,
            **{
                name: torch.where(mask[:, m : m + 1], getattr(batch, name), torch.nan)
                for m, name in enumerate(("text", "audio", "vision"))
            },
        )
        plain, other = model(batch), model(hidden)
        assert torch.equal(plain.logits, other.logits)
        assert torch.equal(plain.shares, other.shares)
        assert torch.equal(plain.memory.dialogue, other.memory.dialogue)
        assert torch.equal(plain.memory.speakers, other.memory.speakers)


def test_what_is_behind_the_mask_does_not_spoil_the_gradient() -> None:
    model = make_model().train()
    batch = make_batch((8,))
    batch = replace(batch, text=torch.where(batch.mask[:, :1], batch.text, torch.nan))
    model(batch).logits.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_missing_is_not_zeros() -> None:
    model = make_model()
    zeros = complete(make_batch((4,)))
    zeros = replace(zeros, audio=torch.zeros_like(zeros.audio))
    without = replace(zeros, mask=torch.tensor([True, False, True]).expand(4, 3))
    assert not torch.allclose(model(zeros).logits, model(without).logits, atol=1e-4)


def change_after(batch: DialogueBatch, cut: int, other: DialogueBatch) -> DialogueBatch:
    """``batch`` up to ``cut``, then ``other``."""
    return DialogueBatch(**{name: torch.cat([t[:cut], vars(other)[name][cut:]]) for name, t in vars(batch).items()})


@QUICK
@given(
    seed=st.integers(0, 1000),
    length=st.integers(2, 20),
    data=st.data(),
    scale=st.floats(0.01, 100.0),
    later=st.floats(0.0, 500.0),
    more_speakers=st.integers(0, 6),
    layers=st.sampled_from([1, 2]),
    without=st.sampled_from([(), *((part,) for part in PARTS)]),
)
def test_causal_nothing_later_changes_a_bit(
    seed: int,
    length: int,
    data: st.DataObject,
    scale: float,
    later: float,
    more_speakers: int,
    layers: int,
    without: tuple[str, ...],
) -> None:
    """Vectors, times, modalities and speakers of any later utterance, new speakers among them."""
    cut = data.draw(st.integers(1, length - 1), label="cut")
    model = make_model(replace(SMALL, layers=layers, without=without))
    batch, other = make_batch((length,), seed), make_batch((length,), seed + 1)
    speaker = other.speaker.clone()
    speaker[speaker >= 0] += more_speakers
    other = replace(
        other,
        **{name: getattr(other, name) * scale for name in ("text", "audio", "vision")},
        speaker=speaker,
        start=other.start + later,
        end=other.end + later,
    )
    plain, moved = model(batch), model(change_after(batch, cut, other))
    assert not torch.equal(plain.logits[cut:], moved.logits[cut:])
    for name in ("logits", "votes", "shares"):
        assert torch.equal(getattr(plain, name)[:cut], getattr(moved, name)[:cut]), name
    assert torch.equal(model.probabilities(plain)[:cut], model.probabilities(moved)[:cut])


def test_causal_also_at_the_size_that_runs() -> None:
    """Wide matrices are multiplied by other code than narrow ones."""
    model = make_model(SyncTVAConfig(widths=(1152, 212, 900)))
    batch, other = (make_batch((13, 30), seed, (1152, 212, 900)) for seed in (0, 1))
    other = replace(other, speaker=other.speaker + 3)
    with torch.inference_mode():
        plain = model(batch).logits
        for cut in (1, 5, 12, 14, 29, 42):
            moved = model(change_after(batch, cut, other)).logits
            assert torch.equal(plain[:cut], moved[:cut])
            assert not torch.equal(plain[cut:], moved[cut:])


def test_causal_output_is_that_of_the_dialogue_so_far() -> None:
    model = make_model()
    batch = make_batch((9,))
    whole = model(batch).logits
    for n in range(1, 10):
        torch.testing.assert_close(model(rows(batch, slice(n))).logits, whole[:n], atol=1e-5, rtol=1e-5)


def test_full_context_sees_the_future() -> None:
    model = make_model(replace(SMALL, context="full"))
    batch = make_batch((20,))
    changed = replace(batch, text=batch.text.clone(), mask=batch.mask.clone())
    changed.text[-1] += 1.0
    changed.mask[-1] = True
    moved = (model(batch).logits != model(changed).logits).any(dim=1)
    assert moved.all()  # also what the graphs do not reach: the memory goes both ways


def test_graphs_reach_as_far_as_they_say_and_the_memory_further() -> None:
    batch = complete(make_batch((20,)))
    changed = replace(batch, text=batch.text.clone())
    changed.text[0] += 1.0
    assert SMALL.reach == 6
    model = make_model(replace(SMALL, without=("memory",)))
    moved = (model(batch).logits != model(changed).logits).any(dim=1)
    assert moved.tolist() == [True] * 7 + [False] * 13
    model = make_model()
    assert (model(batch).logits != model(changed).logits).any(dim=1).all()


def test_a_past_that_is_remembered_continues_the_dialogue() -> None:
    """Without graphs all that an utterance knows of earlier ones is the memory."""
    model = make_model(replace(SMALL, without=("text_audio", "text_vision", "audio_vision")))
    batch = make_batch((30,))
    whole = model(batch)
    memory, logits = None, []
    for part in (slice(0, 1), slice(1, 12), slice(12, 13), slice(13, 30)):
        output = model(rows(batch, part), memory)
        memory = output.memory
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits), whole.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.dialogue, whole.memory.dialogue, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.speakers, whole.memory.speakers, atol=1e-5, rtol=1e-5)


def test_a_past_and_the_reach_of_the_graphs_continue_the_dialogue() -> None:
    model = make_model()
    batch = make_batch((30,))
    whole = model(batch).logits
    before = model(rows(batch, slice(0, 17))).memory
    alone = model(rows(batch, slice(17, 30)), before).logits
    torch.testing.assert_close(alone[SMALL.reach :], whole[17 + SMALL.reach :], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(rows(batch, slice(17, 30))).logits[-1], whole[-1], atol=1e-4)


def test_each_dialogue_has_its_own_past() -> None:
    model = make_model()
    batch = make_batch((4, 6, 2))
    past = model(make_batch((3, 5, 1), seed=9)).memory
    together = model(batch, past)
    for dialogue in range(3):
        own = batch.dialogue == dialogue
        one = slice(dialogue, dialogue + 1)
        alone = model(rows(batch, own), MemoryState(past.dialogue[one], past.speakers[one]))
        torch.testing.assert_close(alone.logits, together.logits[own], atol=1e-5, rtol=1e-5)
        assert alone.memory is not None
        torch.testing.assert_close(alone.memory.dialogue, together.memory.dialogue[one], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", ["causal", "full"])
def test_a_batch_equals_each_dialogue_alone(context: Literal["causal", "full"]) -> None:
    model = make_model(replace(SMALL, context=context))
    batch = make_batch((5, 1, 7, 2))
    together = model(batch)
    for dialogue in range(4):
        own = batch.dialogue == dialogue
        alone = model(rows(batch, own))
        torch.testing.assert_close(alone.logits, together.logits[own], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.shares, together.shares[own], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", ["causal", "full"])
@pytest.mark.parametrize("order", [(3, 1, 0, 2), (2, 3, 1, 0)])
def test_the_order_of_the_dialogues_does_not_matter(context: Literal["causal", "full"], order: tuple[int, ...]) -> None:
    model = make_model(replace(SMALL, context=context))
    batch = make_batch((5, 1, 7, 2))
    moved = torch.cat([(batch.dialogue == dialogue).nonzero().squeeze(1) for dialogue in order])
    shuffled = rows(batch, moved)
    new_number = torch.tensor(order).argsort()
    shuffled = replace(shuffled, dialogue=new_number[shuffled.dialogue])
    torch.testing.assert_close(model(shuffled).logits, model(batch).logits[moved], atol=1e-5, rtol=1e-5)


def test_dialogue_numbers_may_have_gaps() -> None:
    model = make_model()
    batch = make_batch((5, 1, 7))
    gaps = replace(batch, dialogue=batch.dialogue * 10 + 4)
    assert torch.equal(model(batch).logits, model(gaps).logits)


@QUICK
@given(seed=st.integers(0, 1000), names=st.permutations(range(7)), full=st.booleans())
def test_speaker_numbers_are_exchangeable(seed: int, names: list[int], full: bool) -> None:
    model = make_model(replace(SMALL, context="full" if full else "causal"))
    batch = make_batch((8, 3), seed)
    renamed = torch.where(batch.speaker < 0, -1, torch.tensor(names)[batch.speaker.clamp(min=0)])
    assert torch.equal(model(batch).logits, model(replace(batch, speaker=renamed)).logits)


def test_speakers_are_distinguished() -> None:
    model = make_model()
    batch = complete(make_batch((4,)))
    by_speakers = [
        model(replace(batch, speaker=torch.tensor(speaker))).logits[-1]
        for speaker in ([0, 1, 0, 1], [0, 0, 0, 0], [-1, -1, -1, -1])
    ]
    assert not torch.allclose(by_speakers[0], by_speakers[1])
    assert not torch.allclose(by_speakers[1], by_speakers[2])


def test_seconds_between_turns_matter_and_the_clock_does_not() -> None:
    model = make_model()
    batch = complete(make_batch((4,)))
    shifted = replace(batch, start=batch.start + 64.0, end=batch.end + 64.0)
    torch.testing.assert_close(model(batch).logits, model(shifted).logits, atol=1e-4, rtol=1e-4)
    slower = replace(batch, start=batch.start * 10, end=batch.start * 10 + 2.0)
    assert not torch.allclose(model(batch).logits[-1], model(slower).logits[-1])


def test_pairs_and_their_features() -> None:
    start, end = torch.tensor([0.0, 3.0, 4.0, 0.0]), torch.tensor([2.0, 5.0, 6.0, 1.0])
    speaker, dialogue = torch.tensor([0, 1, -1, 0]), torch.tensor([0, 0, 0, 1])
    turns = connect_turns(start, end, speaker, dialogue, window=2)
    assert turns.index.T.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert [EDGE_TYPES[t] for t in turns.type] == ["earlier_other", "earlier_unknown", "earlier_unknown"]
    expected = torch.tensor([[0.5, 2.0], [0.5, 1.0], [1.0, 3.0]])
    expected[:, 1] = expected[:, 1].log()
    torch.testing.assert_close(turns.features, expected)

    both = connect_turns(start, end, torch.tensor([0, 1, 0, 0]), dialogue, window=2, full_context=True)
    found = {
        (int(source), int(target)): (EDGE_TYPES[kind], feature.tolist())
        for source, target, kind, feature in zip(*both.index, both.type, both.features, strict=True)
    }
    assert {pair: kind for pair, (kind, _) in found.items()} == {
        (0, 1): "earlier_other",
        (1, 2): "earlier_other",
        (0, 2): "earlier_same",
        (1, 0): "later_other",
        (2, 1): "later_other",
        (2, 0): "later_same",
    }
    assert found[(2, 0)][1] == found[(0, 2)][1]


@pytest.mark.parametrize("context", ["causal", "full"])
def test_every_parameter_learns(context: Literal["causal", "full"]) -> None:
    model = make_model(replace(SMALL, context=context)).train()
    batch = complete(make_batch((20, 20)))
    model(batch).logits.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_it_can_learn_ten_dialogues_by_heart() -> None:
    batch = make_batch((6,) * 10)
    labels = torch.randint(5, (60,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    model = SyncTVA(replace(SMALL, hidden=32, dropout=0.0))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        cross_entropy(model.train()(batch).logits, labels).backward()
        optimiser.step()
    with torch.no_grad():
        assert (model.eval()(batch).logits.argmax(1) == labels).all()


#: What the names of a part's parameters begin with, and how many of them the small network has.
PARAMETERS = {
    "enhancement": ("weighing.", "memory.", "enhancement."),
    "memory": ("memory.",),
    "text_audio": ("graphs.2.",),
    "text_vision": ("graphs.2.",),
    "audio_vision": ("graphs.2.",),
    "cross_attention": ("fusion.attention.", "fusion.gate."),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("context", ["causal", "full"])
def test_parts_can_be_left_out(part: str, context: Literal["causal", "full"]) -> None:
    config = replace(SMALL, context=context)
    whole, model = make_model(config), make_model(replace(config, without=(part,)))
    left_out = whole.state_dict().keys() - model.state_dict().keys()
    assert left_out == {name for name in whole.state_dict() if name.startswith(PARAMETERS[part])}
    assert left_out
    batch = make_batch((7, 3))
    output = model.train()(batch)
    output.logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (output.memory is None) == (part in ("enhancement", "memory"))


def test_all_parts_can_be_left_out_and_then_turns_are_alone() -> None:
    model = make_model(replace(SMALL, without=PARTS))
    batch = make_batch((7,))
    output = model(batch)
    for row in range(7):
        alone = model(rows(batch, slice(row, row + 1)))
        torch.testing.assert_close(alone.logits[0], output.logits[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("has", SUBSETS)
def test_modalities_of_width_0_are_not_built(has: tuple[bool, ...]) -> None:
    text, audio, vision = (width if there else 0 for width, there in zip(WIDTHS, has, strict=True))
    model = make_model(replace(SMALL, widths=(text, audio, vision)))
    assert len(model.projection) == len(model.fusion.classifier) == sum(has)
    assert len(model.graphs) == {1: 0, 2: 1, 3: 3}[sum(has)]
    # A mask that says there is what the network has not is nothing to complain of.
    batch = complete(make_batch((5, 2), widths=(text, audio, vision)))
    output = model(batch)
    assert torch.isfinite(output.logits).all()
    assert ((output.shares > 0.0) == torch.tensor(has)).all()
    masked = model(replace(batch, mask=batch.mask & torch.tensor(has)))
    assert torch.equal(masked.logits, output.logits)
    model.train()(batch).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_probabilities_use_the_temperatures() -> None:
    model = make_model()
    output = model(make_batch((6,)))
    torch.testing.assert_close(model.probabilities(output), torch.softmax(output.logits, dim=-1))
    model.temperature = (4.0, 2.0, 0.5)
    text, audio, vision = output.shares.unbind(1)
    divisor = (4.0 * text + 2.0 * audio + 0.5 * vision).unsqueeze(-1)
    torch.testing.assert_close(model.probabilities(output), torch.softmax(output.logits / divisor, dim=-1))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"widths": (3, -1, 3)}, "widths must be three numbers"),
        ({"widths": (0, 0, 0)}, "not all of them 0"),
        ({"widths": (3, 3)}, "widths must be three numbers"),
        ({"hidden": 10, "heads": 4}, "multiple of heads"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"context": "both"}, "'causal' or 'full'"),
        ({"dropout": 1.0}, "dropout"),
        ({"without": ("fusion",)}, "no part 'fusion' to leave out: name some of enhancement, memory, text_audio"),
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
    with pytest.raises(ValueError, match="no utterances: leave empty dialogues out"):
        model(rows(batch, slice(0)))
    broken = complete(batch)
    broken.audio[2, 3] = torch.nan
    with pytest.raises(ValueError, match="the audio vector in row 2 holds NaN or infinity"):
        model(broken)
    with pytest.raises(ValueError, match="the past of 2 dialogues is given for a batch of 1"):
        model(batch, model(make_batch((3, 1))).memory)
    with pytest.raises(ValueError, match="row 0 has no modality"):
        make_model(replace(SMALL, widths=(0, 9, 0)))(
            replace(make_batch((1,), widths=(0, 9, 0)), mask=torch.tensor([[True, False, True]]))
        )
