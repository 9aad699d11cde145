"""Modality-specific dynamic enhancement, the first stage of Sync-TVA.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395, whose abstract asks for "modality-specific dynamic
enhancement". We had the abstract, not the equations: the formulas below are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CausalSummary(nn.Module):
    r"""What was said so far, as one vector per utterance.

    With :math:`u_j` the mean of the present modalities' vectors of utterance :math:`j`, and :math:`W_i` the turns in
    the window of utterance :math:`i` (never :math:`i` itself),

    .. math:: s_i = \sum_{j \in W_i} \mathrm{softmax}_{j \in W_i}(w_{|i-j|}) \, u_j

    with one learned weight :math:`w` per distance; :math:`s_i = 0` when the window is empty. A window instead of a
    recurrent state makes the result independent of when the program was started (our choice).
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.0, -1.0, window))

    def forward(self, hidden: Tensor, mask: Tensor, pairs: Tensor, distance: Tensor) -> Tensor:
        """Summarise the turns before each utterance.

        Args:
            hidden: projected modalities ``[N, 3, d]``.
            mask: which of them are there, bool ``[N, 3]``.
            pairs: (source, target) utterances ``[2, E]``.
            distance: turns between the two, signed, ``[E]``; positive when the source is earlier.

        Returns:
            ``[N, d]``.
        """
        present = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * present).sum(dim=1) / present.sum(dim=1)
        source, target = pairs
        weight = self.weight.exp()[distance.abs() - 1]
        total = weight.new_zeros(len(mean)).index_add(0, target, weight)
        share = weight / total[target]
        return torch.zeros_like(mean).index_add(0, target, share.unsqueeze(-1) * mean[source])


class DynamicEnhancement(nn.Module):
    r"""Gated residual enhancement of one modality.

    .. math::
        g_i &= \sigma(W_g [h_i; s_i] + b_g) \\
        e_i &= \mathrm{LayerNorm}\big(h_i + g_i \odot \mathrm{GELU}(W_e [h_i; s_i] + b_e)\big)

    :math:`h_i` is the utterance in this modality and :math:`s_i` the conversation so far: how much is added depends on
    both, per channel.
    """

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * hidden, hidden)
        self.candidate = nn.Linear(2 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, summary: Tensor) -> Tensor:
        """Enhance ``hidden [N, d]`` given ``summary [N, d]``; returns ``[N, d]``."""
        both = torch.cat([hidden, summary], dim=-1)
        added = torch.sigmoid(self.gate(both)) * nn.functional.gelu(self.candidate(both))
        enhanced: Tensor = self.norm(hidden + self.dropout(added))
        return enhanced


#: Standardised inputs are kept within this many deviations.
LARGEST_INPUT = 4.0


class Projection(nn.Module):
    r"""One modality's encoder vector in the network's width.

    .. math:: h = \mathrm{GELU}\big(W \, \mathrm{clip}_{\pm 4}((x - \mu) / \sigma) + b\big)

    :math:`\mu, \sigma` ``[width]`` are those of the training data (see :meth:`fit`) and are stored with the weights,
    because encoders differ in scale by orders of magnitude. Clipped, because one channel far from all that was seen in
    training (a broken microphone) would drown the others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.linear = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take mean and deviation from the training vectors ``[n, width]``; constant channels keep deviation 1."""
        self.mean.copy_(vectors.mean(dim=0))
        deviation = vectors.std(dim=0, correction=0)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Project ``[N, width]`` to ``[N, d]``."""
        standardised = ((vectors - self.mean) / self.deviation).clamp(-LARGEST_INPUT, LARGEST_INPUT)
        projected: Tensor = self.dropout(nn.functional.gelu(self.linear(standardised)))
        return projected
