"""The heterogeneous cross-modal graphs text-audio, text-vision and audio-vision, and attention over their edges.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395 for the three graphs and graph attention. We had the
abstract, not the equations: the edge types, the edge features and the form of the attention are our choice.

A node is one modality of one utterance. Its incoming edges come from

- the other modality of the graph in the same utterance,
- the same modality in the turns within the window, with a type of their own for turns of the same speaker, of another
  speaker, and for pairs of which at least one speaker is unknown, and for earlier and later turns.

A missing modality has no node: its edges are there, with weight 0, so that the shape of a graph depends on the number
of turns alone and what comes later cannot change the last bit of what came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Types of edges: 0 is the other modality of the same utterance, the others are over time.
SAME_UTTERANCE = 0
EDGE_TYPES = (
    "same_utterance",
    *(f"{turn}_{speaker}" for turn in ("earlier", "later") for speaker in ("same", "other", "unknown")),
)
#: From the type of an earlier turn to that of a later one.
LATER = 3
EDGE_FEATURES = 2


@dataclass(frozen=True)
class Turns:
    """Pairs of utterances of one dialogue that lie within the window, before modalities come into it.

    Attributes:
        index: (source, target) ``[2, E]``.
        type: index into ``EDGE_TYPES`` ``[E]``.
        features: ``[E, 2]``: distance in turns as a share of the window; ``log(1 + seconds)`` of the silence or speech
            of others between the two, 0 when they overlap.
    """

    index: Tensor
    type: Tensor
    features: Tensor


def connect_turns(
    start: Tensor, end: Tensor, speaker: Tensor, dialogue: Tensor, window: int, full_context: bool = False
) -> Turns:
    """Pair each utterance with the turns in its window.

    Args:
        start: start of speech in seconds ``[N]``.
        end: end of speech in seconds ``[N]``.
        speaker: index of the speaker within the dialogue ``[N]``, -1 when unknown.
        dialogue: index of the dialogue ``[N]``; the rows of a dialogue follow each other in the order of its turns.
        window: how many turns back (and ahead, with ``full_context``) an utterance is connected to.
        full_context: also connect to later turns; not for live use.

    Returns:
        The pairs, ordered so that those of an utterance do not depend on later rows.
    """
    rows = torch.arange(len(dialogue), device=dialogue.device)
    steps = torch.arange(1, window + 1, device=dialogue.device)
    if full_context:
        steps = torch.cat([steps, -steps])
    source = rows.unsqueeze(1) - steps
    inside = (source >= 0) & (source < len(rows))
    source = source.clamp(0, len(rows) - 1)
    inside &= dialogue[source] == dialogue.unsqueeze(1)
    target = rows.unsqueeze(1).expand_as(source)[inside]
    distance = steps.expand_as(source)[inside]
    source = source[inside]

    kind = earlier_type(speaker[source], speaker[target]) + LATER * (distance < 0).long()
    earlier, later = torch.where(distance > 0, source, target), torch.where(distance > 0, target, source)
    seconds = (start[later] - end[earlier]).clamp(min=0.0)
    return Turns(torch.stack([source, target]), kind, edge_features(distance.abs() / window, seconds))


def earlier_type(source: Tensor, target: Tensor) -> Tensor:
    """Index into ``EDGE_TYPES`` of edges from earlier turns, given the speakers at both ends (-1: unknown)."""
    unknown = (source < 0) | (target < 0)
    return 1 + torch.where(unknown, 2, (source != target).long())


def edge_features(distance: Tensor, seconds: Tensor) -> Tensor:
    """What :class:`Turns` says of an edge ``[..., 2]``: its distance in windows, and the seconds between its ends."""
    return torch.stack([distance, torch.log1p(seconds)], dim=-1).to(seconds.dtype)


@dataclass(frozen=True)
class Edges:
    """The edges of one cross-modal graph over 2N nodes: i is utterance i in one modality, N + i in the other.

    Attributes:
        index: (source, target) ``[2, E]``.
        type: index into ``EDGE_TYPES`` ``[E]``.
        features: ``[E, 2]``, see :class:`Turns`; 0 within an utterance.
        there: bool ``[E]``, whether both ends are nodes.
    """

    index: Tensor
    type: Tensor
    features: Tensor
    there: Tensor

    @classmethod
    def of(cls, turns: Turns, mask: Tensor) -> Edges:
        """Lay the pairs of turns over two modalities, of which ``mask [N, 2]`` says where they are there."""
        count = len(mask)
        rows = torch.arange(count, device=mask.device)
        across = torch.cat([torch.stack([rows + count, rows]), torch.stack([rows, rows + count])], dim=1)
        index = torch.cat([across, turns.index, turns.index + count], dim=1)
        nodes = mask.t().flatten()
        return cls(
            index=index,
            type=torch.cat([torch.full_like(across[0], SAME_UTTERANCE), turns.type, turns.type]),
            features=torch.cat([turns.features.new_zeros(2 * count, EDGE_FEATURES), turns.features, turns.features]),
            there=nodes[index[0]] & nodes[index[1]],
        )


@dataclass(frozen=True)
class PastEdges:
    """The edges to one utterance of each of B dialogues: from its other modality, then from the W turns before it.

    Attributes:
        type: index into ``EDGE_TYPES`` ``[B, 1 + W]``.
        features: ``[B, 1 + W, 2]``, see :class:`Turns`.
        there: bool ``[B, 1 + W, 2]``, for each of the graph's two modalities whether the source is a node. Whether the
            target is one does not matter, as nothing reads it where it is not.
    """

    type: Tensor
    features: Tensor
    there: Tensor


class GraphAttentionLayer(nn.Module):
    r"""One round of attention over the typed edges of one cross-modal graph.

    GATv2 (https://arxiv.org/abs/2105.14491) with a vector per edge type :math:`t` and edge features :math:`f`. For node
    :math:`i` of modality :math:`m` and each incoming edge from :math:`j` of modality :math:`n`:

    .. math::
        v_{ij} &= U_n x_j + r_{t(ij)}, \qquad
        \alpha_{ij} = \mathrm{softmax}_j \; a^\top \mathrm{LeakyReLU}(W_m x_i + v_{ij} + F f_{ij}) \\
        x'_i &= \mathrm{LayerNorm}_m\big(x_i + g_i \odot \textstyle\sum_j \alpha_{ij} v_{ij}\big), \qquad
        g_i = \sigma(G_m [x_i; \textstyle\sum_j \alpha_{ij} v_{ij}])

    per head. A node without edges stays as it is but for the norm.
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.target = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.source = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.relation = nn.Embedding(len(EDGE_TYPES), hidden)
        nn.init.normal_(self.relation.weight, std=0.02)
        self.feature = nn.Linear(EDGE_FEATURES, hidden, bias=False)
        self.score = nn.Parameter(torch.empty(1, heads, hidden // heads))
        nn.init.xavier_uniform_(self.score)
        self.gate = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: list[Tensor], edges: Edges) -> list[Tensor]:
        """Exchange messages once.

        Args:
            nodes: the two modalities' vectors, each ``[N, d]``; the rows of missing nodes are not read.
            edges: of this graph.

        Returns:
            The new vectors, each ``[N, d]``.
        """
        # Not imported with this module: on a robot only step() runs, and PyTorch Geometric takes 120 MB of memory.
        from torch_geometric.utils import scatter, softmax

        source, target = edges.index
        x_source = torch.cat([linear(x) for linear, x in zip(self.source, nodes, strict=True)])
        x_target = torch.cat([linear(x) for linear, x in zip(self.target, nodes, strict=True)])
        value, score = self._value_and_score(
            x_source[source], x_target[target], self.relation(edges.type), self.feature(edges.features), edges.there
        )
        weight = softmax(score, target, num_nodes=len(x_target)) * edges.there.unsqueeze(-1)
        weight = nn.functional.dropout(weight, self.dropout.p, self.training)
        drawn = scatter((weight.unsqueeze(-1) * value).flatten(1), target, dim_size=len(x_target), reduce="sum")
        return self._updated(nodes, drawn.split(len(nodes[0])))

    def step(self, nodes: list[Tensor], past: Tensor, edges: PastEdges) -> tuple[list[Tensor], Tensor]:
        """Send messages to one utterance of each of B dialogues.

        Args:
            nodes: the two modalities' vectors of the utterances, each ``[B, d]``.
            past: what the W turns before them send (:math:`U_n x_j`), latest first, ``[B, W, 2, d]``.
            edges: of this graph.

        Returns:
            The new vectors, each ``[B, d]``, and what the utterances send to later ones, ``[B, 2, d]``.
        """
        sent = torch.stack([linear(x) for linear, x in zip(self.source, nodes, strict=True)], dim=1)
        x_target = torch.stack([linear(x) for linear, x in zip(self.target, nodes, strict=True)], dim=1)
        value, score = self._value_and_score(
            torch.cat([sent.flip(1).unsqueeze(1), past], dim=1),
            x_target.unsqueeze(1),
            self.relation(edges.type).unsqueeze(2),
            self.feature(edges.features).unsqueeze(2),
            edges.there,
        )
        weight = torch.softmax(score, dim=1) * edges.there.unsqueeze(-1)
        drawn = (weight.unsqueeze(-1) * value).sum(dim=1).flatten(2)
        return self._updated(nodes, drawn.unbind(dim=1)), sent

    def _updated(self, nodes: Sequence[Tensor], drawn: Sequence[Tensor]) -> list[Tensor]:
        """The two modalities' vectors ``[N, d]`` with the messages drawn to them ``[N, d]``."""
        updated = []
        for own, message, gate, norm in zip(nodes, drawn, self.gate, self.norm, strict=True):
            strength = torch.sigmoid(gate(torch.cat([own, message], dim=-1)))
            updated.append(norm(own + self.dropout(strength * message)))
        return updated

    def _value_and_score(
        self, x_j: Tensor, x_i: Tensor, relation: Tensor, feature: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of each edge the values ``[..., heads, d / heads]`` and the scores before the softmax ``[..., heads]``."""
        value = (x_j + relation).unflatten(-1, self.score.shape[1:])
        asked = nn.functional.leaky_relu((x_i + feature).unflatten(-1, self.score.shape[1:]) + value, 0.2)
        # Not minus infinity: a node without any edge would get NaN. Its weights are set to 0 afterwards.
        least = torch.finfo(asked.dtype).min / 2
        return value, (asked * self.score).sum(dim=-1).masked_fill(~there.unsqueeze(-1), least)


class CrossModalGraph(nn.Module):
    """One of the three graphs: ``layers`` rounds of :class:`GraphAttentionLayer`."""

    def __init__(self, hidden: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphAttentionLayer(hidden, heads, dropout) for _ in range(layers))

    def forward(self, nodes: list[Tensor], mask: Tensor, turns: Turns) -> list[Tensor]:
        """Vectors ``[N, d]`` of the two modalities, of which ``mask [N, 2]`` are there, after all rounds."""
        edges = Edges.of(turns, mask)
        for layer in self.layers:
            nodes = layer(nodes, edges)
        return nodes

    def step(self, nodes: list[Tensor], past: Tensor, edges: PastEdges) -> tuple[list[Tensor], Tensor]:
        """One utterance of each of B dialogues, see :meth:`GraphAttentionLayer.step`.

        Args:
            nodes: the two modalities' vectors of the utterances, each ``[B, d]``.
            past: what the W turns before them send in each round, ``[B, W, layers, 2, d]``.
            edges: of this graph.

        Returns:
            The vectors after all rounds, each ``[B, d]``, and what the utterances send, ``[B, layers, 2, d]``.
        """
        sent = []
        for layer, of_layer in zip(self.layers, past.unbind(dim=2), strict=True):
            nodes, given = layer.step(nodes, of_layer, edges)  # type: ignore[operator]
            sent.append(given)
        return nodes, torch.stack(sent, dim=1)
