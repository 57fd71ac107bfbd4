"""Pooled activations of all stages: what a frozen backbone can tell about an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.backbone import Backbone
from zoo.specs import BackboneSpec, Layout

_SPATIAL: dict[Layout, tuple[int, ...]] = {"NCHW": (2, 3), "NHWC": (1, 2), "NTC": (1,)}


class PooledTaps(nn.Module):
    """Images to [N, width]: the spatial means of the activations after the stages `taps`, then the embedding."""

    def __init__(self, backbone: Backbone, spec: BackboneSpec, taps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = tuple(taps)
        self._layouts = {tap: spec.stages[tap].layout for tap in taps}
        self.widths = [*(spec.stages[tap].channels for tap in taps), spec.num_features]

    @property
    def width(self) -> int:
        """Features in all."""
        return sum(self.widths)

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, width] of normalised images [N, 3, H, W]."""
        activation: Any = images
        pooled = []
        for number, stage in enumerate(self.backbone.stages):
            activation = stage(activation)
            if number in self.taps:
                pooled.append(activation.mean(_SPATIAL[self._layouts[number]]))
        return torch.cat([*pooled, self.backbone.pool(activation)], 1)
