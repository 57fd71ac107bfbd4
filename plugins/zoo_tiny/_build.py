"""The torch side of the small residual network for 32x32 images."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.nn.backbone import Backbone

CHANNELS = (32, 32, 64, 112)
_STRIDES = (1, 2, 2)
_BLOCKS = (1, 2, 1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, section 3)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, activation: Tensor) -> Tensor:
        """[N, channels, H / stride, W / stride] from [N, channels_in, H, W]."""
        inner = F.relu(self.norm1(self.conv1(activation)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(activation))


class GlyphNet(nn.Module):
    """Stem of stride 2, three residual stages at strides 2, 4 and 8, global average, linear classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, CHANNELS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(CHANNELS[0]), nn.ReLU())
        self.stages = nn.ModuleList([stem])
        for channels_in, channels, stride, blocks in zip(CHANNELS[:-1], CHANNELS[1:], _STRIDES, _BLOCKS, strict=True):
            layers = [ResidualBlock(channels_in, channels, stride)]
            layers += [ResidualBlock(channels, channels, 1) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*layers))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(CHANNELS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, 3, H, W]."""
        activation = images
        for stage in self.stages:
            activation = stage(activation)
        return cast("Tensor", self.classifier(self.pool(activation)))


def split_glyphnet(module: nn.Module) -> Backbone:
    """The staged backbone of a `GlyphNet`, sharing its parameters."""
    from zoo.nn.backbone import Backbone

    assert isinstance(module, GlyphNet)
    return Backbone(stages=module.stages, pool=module.pool, source_head=nn.Sequential(module.pool, module.classifier))
