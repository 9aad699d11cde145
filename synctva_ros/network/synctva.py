"""The Sync-TVA network: what a person feels, from words, voice and face of an utterance and the dialogue around it.

Source: Zeyu Deng, Yanhui Lu, Jiashu Liao, Shuang Wu, Chongfeng Wei, "Sync-TVA: A Graph-Attention Framework for
Multimodal Emotion Recognition with Cross-Modal Fusion", https://arxiv.org/abs/2507.21395. The three stages and the
three graphs are the paper's; we had its abstract, not its equations, so every formula, the causal mode, missing
modalities and the shares are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from .enhancement import CausalSummary, DynamicEnhancement, Projection
from .fusion import CrossAttentionFusion
from .graphs import CrossModalGraph, connect_turns

#: The order of the modalities in masks and shares.
MODALITIES = ("text", "audio", "vision")
#: The graphs, as the indices of their two modalities: text-audio, text-vision, audio-vision.
GRAPHS = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class SyncTVAConfig:
    """What the network is made of.

    Attributes:
        widths: length of the text, audio and vision vectors.
        classes: number of emotions C.
        hidden: width d inside the network.
        heads: attention heads; divides ``hidden``.
        layers: rounds of graph attention.
        window: turns back that an utterance is connected to.
        context: ``"causal"``: an utterance sees itself and earlier turns; ``"full"``: later ones too (offline only).
        dropout: probability of dropping a channel or an edge in training.
    """

    widths: tuple[int, int, int]
    classes: int = 7
    hidden: int = 128
    heads: int = 4
    layers: int = 1
    window: int = 10
    context: Literal["causal", "full"] = "causal"
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ValueError: a setting is out of its range.
        """
        if len(self.widths) != len(MODALITIES) or min(self.widths) < 1:
            raise ValueError(f"widths must be three positive numbers (text, audio, vision), not {self.widths}")
        for name in ("classes", "hidden", "heads", "layers", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden % self.heads or self.hidden % 2:
            raise ValueError(f"hidden ({self.hidden}) must be even and a multiple of heads ({self.heads})")
        if self.context not in ("causal", "full"):
            raise ValueError(f"context must be 'causal' or 'full', not {self.context!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    @property
    def reach(self) -> int:
        """How many earlier turns can influence an utterance at all: one window per layer and one for the summary."""
        return self.window * (self.layers + 1)


@dataclass(frozen=True)
class DialogueBatch:
    """N utterances of one or more dialogues; the rows of a dialogue follow each other in the order of its turns.

    Attributes:
        text: text vectors ``[N, widths[0]]``.
        audio: audio vectors ``[N, widths[1]]``.
        vision: vision vectors ``[N, widths[2]]``.
        mask: bool ``[N, 3]``: which modalities are there, at least one a row. What a row holds where the mask is False
            is never read and may be NaN.
        start: start of speech ``[N]`` in seconds, on any clock shared by a dialogue.
        end: end of speech ``[N]`` in seconds.
        speaker: index of the speaker within the dialogue ``[N]``; -1 when unknown.
        dialogue: index of the dialogue ``[N]``, never falling from row to row.
    """

    text: Tensor
    audio: Tensor
    vision: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor
    speaker: Tensor
    dialogue: Tensor

    def __len__(self) -> int:
        """Number of utterances N."""
        return len(self.mask)

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same batch on another device."""
        return DialogueBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class SyncTVAOutput:
    """What the network says of N utterances.

    Attributes:
        logits: ``[N, C]``, before the temperature; see :meth:`SyncTVA.probabilities`.
        contributions: share of text, audio and vision ``[N, 3]``, sums to 1, 0 for a missing modality.
        context_index: (earlier utterance, utterance) rows ``[2, E]``.
        context_weight: share of the earlier utterance in what the graphs drew from other turns ``[E]``; sums to 1 over
            the pairs of an utterance that drew on any, else 0.
    """

    logits: Tensor
    contributions: Tensor
    context_index: Tensor
    context_weight: Tensor


class SyncTVA(nn.Module):
    """Enhancement per modality, three cross-modal graphs, cross-attention fusion; see the module's source note.

    A missing modality takes no part: no node, no edge, no attention, no share. Its row is carried along so that row i
    is utterance i everywhere, but nothing reads it.

    Attributes:
        config: what the network is made of.
        temperature: per modality the divisor of the logits that makes the probabilities honest.
    """

    def __init__(self, config: SyncTVAConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = (1.0, 1.0, 1.0)
        hidden, heads, dropout = config.hidden, config.heads, config.dropout
        self.projection = nn.ModuleList(Projection(width, hidden, dropout) for width in config.widths)
        self.summary = CausalSummary(config.window)
        self.enhancement = nn.ModuleList(DynamicEnhancement(hidden, dropout) for _ in MODALITIES)
        self.graphs = nn.ModuleList(CrossModalGraph(hidden, heads, config.layers, dropout) for _ in GRAPHS)
        self.fusion = CrossAttentionFusion(hidden, heads, config.classes, dropout)

    def forward(self, batch: DialogueBatch) -> SyncTVAOutput:
        """Classify each utterance of the batch.

        Raises:
            ValueError: a vector has the wrong width, a row has no modality, or the rows of a dialogue are apart.
        """
        self._check(batch)
        mask = batch.mask
        turns = connect_turns(
            batch.start,
            batch.end,
            batch.speaker,
            batch.dialogue,
            self.config.window,
            full_context=self.config.context == "full",
        )
        projected = torch.stack(
            [
                project(torch.where(mask[:, m : m + 1], vectors, 0.0))
                for m, (project, vectors) in enumerate(
                    zip(self.projection, (batch.text, batch.audio, batch.vision), strict=True)
                )
            ],
            dim=1,
        )
        summary = self.summary(projected, mask, turns.index, turns.distance)
        enhanced = [enhance(projected[:, m], summary) for m, enhance in enumerate(self.enhancement)]

        views: list[list[Tensor]] = [[] for _ in MODALITIES]
        drawn: list[list[Tensor]] = [[] for _ in MODALITIES]
        for graph, pair in zip(self.graphs, GRAPHS, strict=True):
            nodes, weights = graph([enhanced[m] for m in pair], mask[:, list(pair)], turns)
            for m, node, weight in zip(pair, nodes, weights, strict=True):
                views[m].append(node)
                drawn[m].append(weight)
        logits, contributions = self.fusion(
            torch.stack([torch.stack(of_modality, dim=1) for of_modality in views], dim=1), mask
        )

        # What a modality drew counts as much as the modality's vote.
        target = turns.index[1]
        weight = torch.stack([torch.stack(of_modality).mean(dim=0) for of_modality in drawn], dim=-1)
        weight = (weight * contributions[target]).sum(dim=-1)
        total = weight.new_zeros(len(batch)).index_add(0, target, weight)
        share = weight / total[target].clamp(min=torch.finfo(weight.dtype).tiny)
        return SyncTVAOutput(logits, contributions, turns.index, share)

    def probabilities(self, output: SyncTVAOutput) -> Tensor:
        r"""Calibrated probabilities ``[N, C]``.

        .. math:: p = \mathrm{softmax}\big(\text{logits} \,/\, \textstyle\sum_m a_m T_m\big)

        Temperature scaling (https://arxiv.org/abs/1706.04599) with one temperature :math:`T_m` per modality, weighed
        with the contributions :math:`a_m`, because words, voices and faces are over- and underrated differently (ours).
        """
        temperature = output.contributions @ output.contributions.new_tensor(self.temperature)
        return torch.softmax(output.logits / temperature.unsqueeze(-1), dim=-1)

    def _check(self, batch: DialogueBatch) -> None:
        widths = (batch.text.shape[-1], batch.audio.shape[-1], batch.vision.shape[-1])
        if widths != self.config.widths:
            raise ValueError(
                f"vectors of width {widths} (text, audio, vision) given to a network built for {self.config.widths}"
            )
        lonely = (~batch.mask.any(dim=1)).nonzero()
        if len(lonely):
            raise ValueError(f"utterance in row {int(lonely[0])} has no modality: leave such utterances out of a batch")
        if bool((batch.dialogue[1:] < batch.dialogue[:-1]).any()):
            raise ValueError("the dialogue index falls from one row to the next: put each dialogue's rows together")
