"""A backbone as every strategy sees it: a sequence of stages and a pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.nn.onednn import mend_convolutions

Axes = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""The spatial axes of an activation; of one that is a tuple, those of each part, none of what is left out."""


class Backbone(nn.Module):
    """Stages that map activation to activation, and a pool that maps the last activation to one embedding.

    `stages[0]` takes normalised images [N, 3, H, W]; `pool` gives [N, num_features]. A pool may have parameters
    (a final norm): they belong with the last stage. `source_head`, where given, maps the *last activation* to the
    logits of the source task.
    """

    def __init__(self, *, stages: Iterable[nn.Module], pool: nn.Module, source_head: nn.Module | None = None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pool = pool
        self.source_head = source_head
        mend_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """The embedding [N, num_features] of normalised images [N, 3, H, W]."""
        return cast("Tensor", self.pool(self.run_stages(images)))

    def run_stages(self, activation: Any, start: int = 0, stop: int | None = None) -> Any:
        """The activation after stages `start` to `stop` (exclusive; all that follow when None)."""
        for stage in self.stages[start:stop]:
            activation = stage(activation)
        return activation

    def run_taps(
        self, activation: Any, taps: Mapping[int, Axes], start: int = 0, stop: int | None = None
    ) -> tuple[Any, list[Tensor]]:
        """What `run_stages` gives, and activations on the way: after each stage in `taps`, averaged over its axes."""
        pooled = []
        for number, stage in enumerate(self.stages[start:stop], start):
            activation = stage(activation)
            if number in taps:
                pooled.append(spatial_mean(activation, taps[number]))
        return activation, pooled

    def activations(self, images: Tensor) -> list[Any]:
        """The activation after every stage, in order."""
        found = []
        activation: Any = images
        for stage in self.stages:
            activation = stage(activation)
            found.append(activation)
        return found


def spatial_mean(activation: Any, axes: Axes) -> Tensor:
    """Means [N, C] of an activation over its spatial axes."""
    if isinstance(activation, tuple):
        return torch.cat([part.mean(own) for part, own in zip(activation, axes, strict=True) if own], 1)
    return cast("Tensor", activation.mean(axes))
