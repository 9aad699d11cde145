"""The heterogeneous cross-modal graphs text-audio, text-vision and audio-vision, and attention over their edges.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395 for the three graphs and graph attention. We had the
abstract, not the equations: the relations, the edge features and the attention over relations are our choice.

A node is one modality of one utterance. Its edges come from

- the other modality of the graph in the same utterance,
- the same modality in earlier turns within the window, one relation each for turns of the same speaker, of another
  speaker, and for pairs of which at least one speaker is unknown.

A missing modality has no node and hence no edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

#: Relations over time, in the order of ``Turns.relation``.
SPEAKER_RELATIONS = ("same_speaker", "other_speaker", "unknown_speaker")
EDGE_FEATURES = 2


@dataclass(frozen=True)
class Turns:
    """Pairs of utterances of one dialogue that lie within the window, before modalities come into it.

    Attributes:
        index: (source, target) ``[2, E]``.
        distance: turns from source to target ``[E]``, positive when the source is earlier.
        relation: index into ``SPEAKER_RELATIONS`` ``[E]``.
        features: ``[E, 2]``: distance as a share of the window; ``log(1 + seconds)`` of the silence or talk of others
            between the two, 0 when they overlap.
    """

    index: Tensor
    distance: Tensor
    relation: Tensor
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

    unknown = (speaker[source] < 0) | (speaker[target] < 0)
    relation = torch.where(unknown, 2, (speaker[source] != speaker[target]).long())
    earlier, later = torch.where(distance > 0, source, target), torch.where(distance > 0, target, source)
    seconds = (start[later] - end[earlier]).clamp(min=0.0)
    features = torch.stack([distance / window, torch.log1p(seconds)], dim=-1).to(start.dtype)
    return Turns(torch.stack([source, target]), distance, relation, features)


class GraphAttentionLayer(nn.Module):
    r"""One round of attention over the typed edges of one cross-modal graph.

    Within a relation :math:`r` over time the weights are those of GATv2 (https://arxiv.org/abs/2105.14491) with edge
    features :math:`f`:

    .. math::
        \alpha^r_{ij} = \mathrm{softmax}_j \; a_r^\top \mathrm{LeakyReLU}(W_r x_i + U_r x_j + F_r f_{ij}), \qquad
        z^r_i = \sum_j \alpha^r_{ij} U_r x_j

    The other modality of the same utterance is a single neighbour, so its weight would always be 1:
    :math:`z^r_i = U_r x_j`. The relations that node :math:`i` has are weighed against each other as in HAN
    (https://arxiv.org/abs/1903.07293):

    .. math::
        \beta^r_i = \mathrm{softmax}_r \; q^\top \tanh(V z^r_i + c), \qquad
        x'_i = \mathrm{LayerNorm}\big(x_i + \textstyle\sum_r \beta^r_i z^r_i\big)
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.over_time = nn.ModuleList(
            nn.ModuleDict(
                {
                    relation: GATv2Conv(
                        hidden,
                        hidden // heads,
                        heads=heads,
                        dropout=dropout,
                        edge_dim=EDGE_FEATURES,
                        add_self_loops=False,
                    )
                    for relation in SPEAKER_RELATIONS
                }
            )
            for _ in range(2)
        )
        self.relation_score = nn.Sequential(
            nn.Linear(hidden, hidden // 2), nn.Tanh(), nn.Linear(hidden // 2, 1, bias=False)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, nodes: list[Tensor], mask: Tensor, turns: Turns) -> tuple[list[Tensor], list[Tensor]]:
        r"""Exchange messages once.

        Args:
            nodes: the two modalities' vectors, each ``[N, d]``; the rows of missing nodes are not read.
            mask: which nodes there are, bool ``[N, 2]``.
            turns: pairs of utterances.

        Returns:
            The new vectors, each ``[N, d]``, and for each of the two modalities the weight
            :math:`\beta^r_i \alpha^r_{ij}` of each pair ``[E]``, 0 for pairs without an edge.
        """
        source, target = turns.index
        updated, weights = [], []
        for own in range(2):
            other = 1 - own
            messages = [self.across[own](nodes[other])]
            has_relation = [mask[:, 0] & mask[:, 1]]
            edges, attention = [], []
            both_present = mask[source, own] & mask[target, own]
            for relation, name in enumerate(SPEAKER_RELATIONS):
                edge = (both_present & (turns.relation == relation)).nonzero().squeeze(1)
                message, (_, alpha) = self.over_time[own][name](  # type: ignore[index]
                    nodes[own], turns.index[:, edge], turns.features[edge], return_attention_weights=True
                )
                messages.append(message)
                has_relation.append(torch.zeros_like(mask[:, own]).index_fill(0, target[edge], True))
                edges.append(edge)
                attention.append(alpha.mean(dim=1))
            stacked = torch.stack(messages, dim=1)
            has = torch.stack(has_relation, dim=1)
            # A node without any relation gets no message; a finite fill keeps its row free of NaN.
            score = self.relation_score(stacked).squeeze(-1).masked_fill(~has, -1e9)
            beta = torch.softmax(score, dim=1) * has
            message = (beta.unsqueeze(-1) * stacked.masked_fill(~has.unsqueeze(-1), 0.0)).sum(dim=1)
            updated.append(self.norm[own](nodes[own] + self.dropout(message)))

            weight = torch.zeros_like(turns.features[:, 0])
            for relation, (edge, alpha) in enumerate(zip(edges, attention, strict=True)):
                weight = weight.index_copy(0, edge, alpha * beta[target[edge], 1 + relation])
            weights.append(weight)
        return updated, weights


class CrossModalGraph(nn.Module):
    """One of the three graphs: ``layers`` rounds of :class:`GraphAttentionLayer`."""

    def __init__(self, hidden: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphAttentionLayer(hidden, heads, dropout) for _ in range(layers))

    def forward(self, nodes: list[Tensor], mask: Tensor, turns: Turns) -> tuple[list[Tensor], list[Tensor]]:
        """As :meth:`GraphAttentionLayer.forward`; the weights are the mean over the layers."""
        collected: list[list[Tensor]] = []
        for layer in self.layers:
            nodes, weights = layer(nodes, mask, turns)
            collected.append(weights)
        return nodes, [torch.stack(of_modality).mean(dim=0) for of_modality in zip(*collected, strict=True)]
