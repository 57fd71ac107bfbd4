"""Taking hidden layers off a backbone."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.nn.backbone import Axes, Backbone, spatial_mean
from zoo.nn.taps import make_taps
from zoo.specs import BackboneSpec


class MeanPool(nn.Module):
    """The mean of an activation over its spatial axes."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, activation: Tensor) -> Tensor:
        """Embeddings [N, channels] of activations."""
        return spatial_mean(activation, self.axes)


def drop_stages(spec: BackboneSpec, count: int) -> BackboneSpec:
    """The backbone without its last `count` stages; the embedding is then the mean of the last activation left.

    Raises UsageError where no stage would be left. `params` and `macs` stay those of the whole.
    """
    if count == 0:
        return spec
    kept = spec.stages[: len(spec.stages) - count]
    if not kept:
        raise UsageError(f"--drop-stages: {count}; {spec.name} has {len(spec.stages)} stages, one must stay")
    last = len(kept) - 1

    def split(module: nn.Module) -> Backbone:
        whole = spec.split(module)
        return Backbone(stages=whole.stages[: len(kept)], pool=MeanPool(make_taps([last], kept)[last]))

    return replace(spec, stages=kept, num_features=kept[-1].channels, split=split)
