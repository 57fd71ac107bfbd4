"""The torch side of the heads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(num_features: int, num_classes: int, *, hidden: Sequence[int], dropout: float) -> nn.Module:
    """Layers from embeddings [N, num_features] to logits [N, num_classes], one hidden layer per width.

    A bare `nn.Linear` when there is nothing else: a strategy may then solve it in closed form.
    """
    layers: list[nn.Module] = []
    width = num_features
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
        width = next_width
    last = nn.Linear(width, num_classes)
    if not hidden and dropout == 0:
        return last
    return nn.Sequential(*layers, *([nn.Dropout(dropout)] if not hidden else []), last)
