"""The two plain networks: what they see, what they must not see, and missing modalities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from synctva_ros.network.synctva import DialogueBatch
from synctva_ros.training.tasks.references import LateFusionReference, RecurrentReference, ReferenceConfig

WIDTHS = (6, 5, 4)
BOTH = pytest.mark.parametrize("kind", [RecurrentReference, LateFusionReference])


def make_batch(*lengths: int, widths: tuple[int, int, int] = WIDTHS, seed: int = 0) -> DialogueBatch:
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    text, audio, vision = (torch.randn(count, width, generator=generator) for width in widths)
    return DialogueBatch(
        text=text,
        audio=audio,
        vision=vision,
        mask=torch.tensor([[width > 0 for width in widths]] * count),
        start=torch.arange(count) * 2.0,
        end=torch.arange(count) * 2.0 + 1.0,
        speaker=torch.arange(count) % 2,
        dialogue=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
    )


def part(batch: DialogueBatch, rows: slice) -> DialogueBatch:
    names = ("text", "audio", "vision", "mask", "start", "end", "speaker", "dialogue")
    return DialogueBatch(**{name: getattr(batch, name)[rows] for name in names})


def make(kind: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(ReferenceConfig(**{"widths": WIDTHS, "classes": 3, "hidden": 8} | changes)).eval()


@BOTH
@pytest.mark.parametrize("widths", [WIDTHS, (6, 0, 4), (0, 5, 0)])
def test_logits_and_probabilities(kind: type[nn.Module], widths: tuple[int, int, int]) -> None:
    network = make(kind, widths=widths)
    network.temperature = (2.0, 2.0, 2.0)
    batch = make_batch(3, 1, 5, widths=widths)
    output = network(batch)
    assert output.logits.shape == (9, 3)
    probabilities = network.probabilities(output)
    torch.testing.assert_close(probabilities, torch.softmax(output.logits / 2, dim=-1))


@BOTH
def test_dialogues_do_not_mix(kind: type[nn.Module]) -> None:
    network, batch = make(kind), make_batch(3, 1, 5)
    logits = network(batch).logits
    for rows in (slice(0, 3), slice(3, 4), slice(4, 9)):
        torch.testing.assert_close(network(part(batch, rows)).logits, logits[rows])


@pytest.mark.parametrize(("context", "first"), [("causal", 3), ("full", 0)])
def test_what_a_later_turn_changes(context: str, first: int) -> None:
    network, batch = make(RecurrentReference, context=context), make_batch(6)
    text = batch.text.clone()
    text[3] += 1.0
    changed = (network(batch).logits != network(replace(batch, text=text)).logits).any(dim=1)
    assert changed.tolist() == [row >= first for row in range(6)]


def test_late_fusion_does_not_see_the_dialogue() -> None:
    network, batch = make(LateFusionReference), make_batch(6)
    text = batch.text.clone()
    text[3] += 1.0
    changed = (network(batch).logits != network(replace(batch, text=text)).logits).any(dim=1)
    assert changed.tolist() == [row == 3 for row in range(6)]


@BOTH
def test_a_missing_modality_is_never_read(kind: type[nn.Module]) -> None:
    network, batch = make(kind), make_batch(4)
    mask = batch.mask.clone()
    mask[1, 1] = mask[2, 0] = mask[2, 2] = False
    given = network(replace(batch, mask=mask)).logits
    audio, text = batch.audio.clone(), batch.text.clone()
    audio[1] = text[2] = torch.nan
    assert torch.equal(network(replace(batch, mask=mask, audio=audio, text=text)).logits, given)
    assert torch.isfinite(given).all()
    assert not torch.allclose(given, network(batch).logits)
    network(replace(batch, mask=mask, audio=audio, text=text)).logits.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_late_fusion_averages_the_modalities_that_are_there() -> None:
    network, batch = make(LateFusionReference), make_batch(1)
    alone = []
    for m in range(3):
        mask = torch.zeros(1, 3, dtype=torch.bool)
        mask[0, m] = True
        alone.append(network(replace(batch, mask=mask)).logits)
    torch.testing.assert_close(network(batch).logits, torch.stack(alone).mean(dim=0))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"widths": (0, 0, 0)}, "not all 0"),
        ({"widths": (1, 2)}, "three numbers"),
        ({"widths": (1, 2, -1)}, "three numbers"),
        ({"context": "both"}, "'causal' or 'full', not 'both'"),
    ],
)
def test_what_cannot_be_built(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(RecurrentReference, **wrong)
