"""Cross-attention fusion of the graphs' views and the classifier, the last stage of Sync-TVA.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395 for cross-attention fusion. We had the abstract, not
the equations: the formulas below are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CrossAttentionFusion(nn.Module):
    r"""Each modality asks the others' graph views, then the modalities vote.

    Modality :math:`m` has a view from each graph it is in, and :math:`u_m` is their mean.

    .. math::
        c_m &= \mathrm{MultiHead}\big(u_m;\; \text{views of all } n \ne m \text{ present}\big) \\
        f_m &= \mathrm{LayerNorm}\big(u_m + \sigma(W [u_m; c_m] + b) \odot c_m\big) \\
        a_m &= \mathrm{softmax}_{m \text{ present}} \; q_m^\top \tanh(P f_m), \qquad
        \text{logits} = \textstyle\sum_m a_m C_m(f_m)

    with :math:`C_m` a perceptron of one hidden layer. The logits are a weighted sum of votes, and :math:`a_m` is a
    modality's share in it. :math:`c_m = 0` when no other modality is present.

    Args:
        hidden: width d.
        heads: attention heads.
        classes: C.
        modalities: M.
        dropout: of attention weights and of what the classifiers read.
        attend: without it :math:`c_m = 0` always (for ablations).
    """

    def __init__(
        self, hidden: int, heads: int, classes: int, modalities: int, dropout: float, attend: bool = True
    ) -> None:
        super().__init__()
        # A modality without others has nobody to ask.
        attend = attend and modalities > 1
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True) if attend else None
        self.gate = nn.Linear(2 * hidden, hidden) if attend else None
        self.norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(modalities))
        self.share = nn.Linear(hidden, hidden // 2)
        self.share_query = nn.Parameter(torch.zeros(modalities, hidden // 2))
        self.classifier = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, classes),
            )
            for _ in range(modalities)
        )

    def forward(self, views: Sequence[Sequence[Tensor]], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse and classify.

        Args:
            views: for each of the M modalities the vectors ``[N, d]`` from its graphs, at least one.
            mask: which modalities are there, bool ``[N, M]``, at least one a row.

        Returns:
            votes ``[N, M, C]`` and shares ``[N, M]``, which sum to 1 and are 0 where the mask is False.
        """
        keys = torch.stack([view for of_modality in views for view in of_modality], dim=1)
        owner = [m for m, of_modality in enumerate(views) for _ in of_modality]
        fused, votes = [], []
        for m, of_modality in enumerate(views):
            own = torch.stack(list(of_modality)).mean(dim=0)
            if self.attention is not None and self.gate is not None:
                others = torch.stack([mask[:, n] if n != m else torch.zeros_like(mask[:, n]) for n in owner], dim=1)
                alone = ~others.any(dim=1, keepdim=True)
                # Attention over nothing is NaN: where there is no other modality let it see all and drop the answer.
                asked, _ = self.attention(
                    own.unsqueeze(1), keys, keys, key_padding_mask=~(others | alone), need_weights=False
                )
                context = asked.squeeze(1).masked_fill(alone, 0.0)
                own = own + torch.sigmoid(self.gate(torch.cat([own, context], dim=-1))) * context
            fused.append(self.norm[m](own))
            votes.append(self.classifier[m](fused[m]))
        score = (torch.tanh(self.share(torch.stack(fused, dim=1))) * self.share_query).sum(dim=-1)
        share = torch.softmax(score.masked_fill(~mask, float("-inf")), dim=1)
        return torch.stack(votes, dim=1), share
