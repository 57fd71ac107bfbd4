"""Pooled activations of all stages: what a frozen backbone can tell about an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from zoo.nn.backbone import Axes, Backbone
from zoo.specs import BackboneSpec, Layout, StageSpec

Taps = Mapping[int, Axes]
"""Stages whose activations are averaged into features, each with the axes to average over."""

_SPATIAL: dict[Layout, tuple[int, ...]] = {"NCHW": (2, 3), "NHWC": (1, 2), "NTC": (1,)}


def make_taps(stages: Iterable[int], specs: Iterable[StageSpec]) -> Taps:
    """Taps after the stages of these numbers."""
    every = list(specs)
    return {number: _axes(every[number]) for number in stages}


def _axes(spec: StageSpec) -> Axes:
    if spec.branches:
        return tuple(_SPATIAL[branch.layout] if branch is not None else () for branch in spec.branches)
    return _SPATIAL[spec.layout]


def feature_widths(spec: BackboneSpec, taps: Iterable[int]) -> list[int]:
    """How many features each tap gives, and then how many the embedding has."""
    return [*(spec.stages[number].channels for number in taps), spec.num_features]


class PooledTaps(nn.Module):
    """Images to [N, width]: the spatial means of the activations at `taps`, bottom up, then the embedding."""

    def __init__(self, backbone: Backbone, taps: Taps) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = taps

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, width] of normalised images [N, 3, H, W]."""
        activation, pooled = self.backbone.run_taps(images, self.taps)
        return torch.cat([*pooled, self.backbone.pool(activation)], 1)
