"""Heads for single-label classification: one linear layer, or hidden layers before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.hookspecs import hookimpl
from zoo.specs import HeadSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def _linear(num_features: int, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    from zoo_heads import _build

    return _build.mlp(num_features, num_classes, hidden=(), dropout=options["dropout"])


def _mlp(num_features: int, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    from zoo_heads import _build

    return _build.mlp(num_features, num_classes, hidden=options["hidden"], dropout=options["dropout"])


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.cross_entropy(logits, labels)


@hookimpl
def zoo_heads() -> list[HeadSpec]:
    """`linear` and `mlp`."""
    return [
        HeadSpec(
            name="linear",
            task="classification",
            needs="embedding",
            build=_linear,
            loss=_cross_entropy,
            options={"dropout": 0.0},
            summary="one linear layer on the embedding",
        ),
        HeadSpec(
            name="mlp",
            task="classification",
            needs="embedding",
            build=_mlp,
            loss=_cross_entropy,
            options={"hidden": (256,), "dropout": 0.1},
            summary="hidden layers of the given widths with ReLU and dropout, then a linear layer",
        ),
    ]
