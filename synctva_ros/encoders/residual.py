"""The block that the networks for faces and voices are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    r""":math:`\mathrm{ReLU}(s(x) + f(x))` (He et al., https://arxiv.org/abs/1512.03385).

    :math:`f` is two convolutions of 3 by 3, each with batch normalisation.

    Args:
        channels: of the input.
        wider: channels of the output.
        stride: of the first convolution, in both directions.
        project: :math:`s` averages and convolves; else it leaves the input as it is, which then must fit.
    """

    def __init__(self, channels: int, wider: int, stride: int, project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
            nn.Conv2d(wider, wider, 3, padding=1, bias=False),
            nn.BatchNorm2d(wider),
        )
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels, wider, 1, bias=False),
                nn.BatchNorm2d(wider),
            )

    def forward(self, images: Tensor) -> Tensor:
        """``[n, channels, h, w]`` → ``[n, wider, ⌈h / stride⌉, ⌈w / stride⌉]``."""
        return torch.relu(self.shortcut(images) + self.body(images))
