"""The network that recognises an expression in an image of a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from synctva_ros.encoders.residual import ResidualBlock

#: Side of the images, in pixels: that of FER2013.
SIDE = 48


@dataclass(frozen=True)
class FaceNetworkConfig:
    """Shape of the network.

    Attributes:
        classes: expressions.
        width: channels of the first stage; the second has twice, the third four times as many.
        blocks: residual blocks of each stage.
        dropout: before the last layer.
    """

    classes: int
    width: int = 64
    blocks: int = 2
    dropout: float = 0.3


class FaceNetwork(nn.Module):
    r"""A residual network (He et al., https://arxiv.org/abs/1512.03385) for grey images of 48 by 48 pixels.

    Three stages of 24, 12 and 6 pixels, the mean over the last one's pixels, and a linear layer. Every image is
    brought to mean 0 and deviation 1 first, so that light and contrast of the camera do not matter.
    """

    ARCHITECTURE: ClassVar[str] = "face-residual"

    def __init__(self, config: FaceNetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = 24
        layers: list[nn.Module] = [
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        for stage in range(3):
            for number in range(config.blocks):
                wider = config.width * 2**stage
                first = number == 0
                layers.append(ResidualBlock(channels, wider, stride=2 if first else 1, project=first))
                channels = wider
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(channels, config.classes))
        self.width = channels

    def embed(self, images: Tensor) -> Tensor:
        """Vectors ``[n, width]`` of grey images ``[n, 1, h, w]``; any scale of values, any size from 32 pixels."""
        centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        vectors: Tensor = self.body(centred / deviation.clamp_min(1e-3))
        return vectors

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of grey images ``[n, 1, h, w]``."""
        logits: Tensor = self.head(self.embed(images))
        return logits
