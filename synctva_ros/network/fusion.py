"""Cross-attention fusion of the three graphs and the classifier, the last stage of Sync-TVA.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395 for cross-attention fusion. We had the abstract, not
the equations: the formulas below are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossAttentionFusion(nn.Module):
    r"""Each modality asks the others' graph views, then the modalities vote.

    Modality :math:`m` has two views :math:`v^1_m, v^2_m`, one from each graph it is in, and :math:`u_m` is their mean.

    .. math::
        c_m &= \mathrm{MultiHead}\big(u_m;\; v^1_n, v^2_n,\; n \ne m \text{ present}\big) \\
        f_m &= \mathrm{LayerNorm}\big(u_m + \sigma(W [u_m; c_m] + b) \odot c_m\big) \\
        a_m &= \mathrm{softmax}_{m \text{ present}} \; q_m^\top \tanh(P f_m), \qquad
        \text{logits} = \textstyle\sum_m a_m (C_m f_m + b_m)

    The logits are a weighted sum, so :math:`a_m` is the share of each modality's vote. :math:`c_m = 0` when no other
    modality is present.
    """

    def __init__(self, hidden: int, heads: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.gate = nn.Linear(2 * hidden, hidden)
        self.norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.share = nn.Linear(hidden, hidden // 2)
        self.share_query = nn.Parameter(torch.zeros(3, hidden // 2))
        self.classifier = nn.ModuleList(nn.Linear(hidden, classes) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, views: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse and classify.

        Args:
            views: ``[N, 3, 2, d]``: for text, audio and vision the vectors from their two graphs.
            mask: which modalities are there, bool ``[N, 3]``, at least one a row.

        Returns:
            logits ``[N, C]`` and shares ``[N, 3]``, which sum to 1 and are 0 where the mask is False.
        """
        rows, modalities, per_modality, width = views.shape
        own = views.mean(dim=2)
        keys = views.reshape(rows, modalities * per_modality, width)
        key_present = mask.repeat_interleave(per_modality, dim=1)
        fused, votes = [], []
        for m in range(modalities):
            others = key_present.clone()
            others[:, m * per_modality : (m + 1) * per_modality] = False
            alone = ~others.any(dim=1, keepdim=True)
            # Attention over nothing is NaN: where there is no other modality let it see all and drop the answer.
            asked, _ = self.attention(
                own[:, m : m + 1], keys, keys, key_padding_mask=~(others | alone), need_weights=False
            )
            context = asked.squeeze(1).masked_fill(alone, 0.0)
            gate = torch.sigmoid(self.gate(torch.cat([own[:, m], context], dim=-1)))
            fused.append(self.norm[m](own[:, m] + gate * context))
            votes.append(self.classifier[m](self.dropout(fused[m])))
        score = (torch.tanh(self.share(torch.stack(fused, dim=1))) * self.share_query).sum(dim=-1)
        share = torch.softmax(score.masked_fill(~mask, float("-inf")), dim=1)
        return (share.unsqueeze(-1) * torch.stack(votes, dim=1)).sum(dim=1), share
