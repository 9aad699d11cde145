r"""What an estimate rests on: which modality of the utterance, and which other turns.

Each is left out in turn, and how far the probabilities move is how much it counted (occlusion; for language see Li,
Monroe and Jurafsky, https://arxiv.org/abs/1612.08220). So what is said about the network is true of it by definition,
which attention weights need not be (Jain and Wallace, https://arxiv.org/abs/1902.10186).

.. math::
    c_m = \frac{\mathrm{TV}(p, p_{\setminus m})}{\sum_n \mathrm{TV}(p, p_{\setminus n})}, \qquad
    w_j = \frac{\mathrm{TV}(p, p_{\setminus j})}{\sum_k \mathrm{TV}(p, p_{\setminus k})}, \qquad
    \mathrm{TV}(p, q) = \textstyle\frac{1}{2} \sum_c |p_c - q_c|

with :math:`p` the probabilities of an utterance, :math:`p_{\setminus m}` those without modality :math:`m` of this
utterance, and :math:`p_{\setminus j}` those of the dialogue in which turn :math:`j` never was: later turns move up.

Two things that say the same hide each other: without either of them little changes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from synctva_ros.events import MODALITIES

from .enhancement import MemoryState
from .synctva import DialogueBatch, SyncTVA

#: A smaller total variation distance is the rounding of float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Explanation:
    """What the network says of one utterance of a dialogue of n turns, and what that rests on.

    Attributes:
        probabilities: calibrated ``[C]``.
        contributions: shares of text, audio and vision ``[3]``. They sum to 1; 0 for a missing modality; 1 for the only
            one; equal shares if leaving out any one of them changes nothing.
        context: weights of the other turns, in their order, ``[n-1]``. They sum to 1, or are all 0 if leaving out any
            one of the turns considered changes nothing.
    """

    probabilities: Tensor
    contributions: Tensor
    context: Tensor


@torch.inference_mode()
def explain(
    model: SyncTVA,
    batch: DialogueBatch,
    past: MemoryState | None = None,
    *,
    row: int | None = None,
    nearest: int | None = None,
) -> Explanation:
    """Classify one utterance and say what that rests on, in one pass through the network.

    Only turns within the network's window of the utterance are considered as context, one by one. Turns further away,
    and those in ``past``, move it through the memory alone; their weight is not asked for.

    Args:
        model: in evaluation mode.
        batch: one dialogue of n turns.
        past: what is remembered of the turns before the batch; None: nothing.
        row: number of the utterance; None: the last one.
        nearest: consider no more than this many turns before the utterance (and, with full context, as many after it);
            None: the whole window.

    Raises:
        ValueError: the network is in training mode, the batch holds several dialogues, has no such row, or is not fit
            for the network.
    """
    count = len(batch)
    row = count - 1 if row is None else row
    if model.training:
        raise ValueError("the network is in training mode, where it answers at random: call its eval() first")
    if len(batch.dialogue.unique()) > 1:
        raise ValueError("the batch holds several dialogues: explain an utterance with the rows of its own dialogue")
    if count and not 0 <= row < count:
        raise ValueError(f"there is no row {row}: name one of 0 to {count - 1}")

    # Later turns are not seen in causal context, so they need not be computed.
    rows = list(range(row + 1 if model.config.context == "causal" else count))
    span = model.config.window if nearest is None else min(nearest, model.config.window)
    turns = [j for j in rows if 0 < abs(j - row) <= span]
    present = [m for m in model.config.modalities if count and bool(batch.mask[row, m])]
    occluded = present if len(present) > 1 else []

    # The dialogue as it is, then without each modality of the utterance, then without each turn.
    copies = [rows] * (1 + len(occluded)) + [rows[:j] + rows[j + 1 :] for j in turns]
    device = batch.mask.device
    length = torch.tensor([len(copy) for copy in copies], device=device)
    taken = torch.tensor([j for copy in copies for j in copy], dtype=torch.long, device=device)
    asked = (taken == row).nonzero().squeeze(1)
    of_copies = {field.name: getattr(batch, field.name)[taken] for field in fields(batch)}
    of_copies["dialogue"] = torch.repeat_interleave(length)
    for copy, m in enumerate(occluded, start=1):
        of_copies["mask"][asked[copy], m] = False
    if past is not None:
        past = MemoryState(
            past.dialogue.expand(len(copies), *past.dialogue.shape[1:]),
            past.speakers.expand(len(copies), *past.speakers.shape[1:]),
        )
    probabilities = model.probabilities(model(DialogueBatch(**of_copies), past))[asked]

    by_modality, by_turn = distances(probabilities).split([len(occluded), len(turns)])
    contributions = probabilities.new_zeros(len(MODALITIES))
    contributions[present] = shares(by_modality, 1.0 / len(present)) if occluded else 1.0
    context = probabilities.new_zeros(count)
    context[turns] = shares(by_turn, 0.0)
    others = torch.arange(count, device=device) != row
    return Explanation(probabilities[0], contributions, context[others])


def distances(probabilities: Tensor) -> Tensor:
    """Total variation distance ``[n]`` of each later row of ``[1 + n, C]`` from the first; 0 if it is but rounding."""
    moved = 0.5 * (probabilities[1:] - probabilities[0]).abs().sum(dim=1)
    return torch.where(moved < ROUNDING, 0.0, moved)


def shares(moved: Tensor, otherwise: float) -> Tensor:
    """Each distance ``[n]`` as a share of their sum, or this number if all are 0."""
    total = moved.sum()
    return moved / total if total > 0.0 else torch.full_like(moved, otherwise)
