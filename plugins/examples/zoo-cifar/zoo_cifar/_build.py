"""The torch side: the network under the names its published weights have, and where each stage begins."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from zoo.nn.backbone import Backbone


class _Block(nn.Module):
    """Two convolutions and a shortcut; where the map shrinks, the shortcut takes every second pixel and adds zeros."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.added = after - before

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps
        if self.added:
            half = self.added // 2
            shortcut = functional.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps))))) + shortcut)


class _Pool(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Network(nn.Module):
    """Images [N, 3, H, W] to the logits of ten classes."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16, blocks)
        self.layer2 = _layer(16, 32, blocks)
        self.layer3 = _layer(32, 64, blocks)
        self.linear = nn.Linear(64, 10)


def build(depth: int) -> nn.Module:
    """The untrained network of this depth."""
    return Network((depth - 2) // 6)


def split(module: Any) -> Backbone:
    """Its parts, not copies of them."""
    pool = _Pool()
    return Backbone(
        stages=[nn.Sequential(module.conv1, module.bn1, nn.ReLU()), module.layer1, module.layer2, module.layer3],
        pool=pool,
        source_head=nn.Sequential(pool, module.linear),
    )


def _layer(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(before, after), *(_Block(after, after) for _ in range(blocks - 1)))
