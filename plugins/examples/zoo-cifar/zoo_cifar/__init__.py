"""Residual networks for small images, pretrained on CIFAR-10."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from zoo.hookspecs import hookimpl
from zoo.specs import BackboneSpec, ImageInput, StageSpec, WeightsSpec

if TYPE_CHECKING:
    from torch import nn
    from zoo.nn.backbone import Backbone

_PUBLISHED = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
_INPUT = ImageInput(height=32, width=32)


@hookimpl
def zoo_backbones() -> list[BackboneSpec]:
    """ResNet-20 and ResNet-56 of He et al. 2016, section 4.2."""
    return [
        _resnet(20, params=269_072, macs=40_551_424, file="resnet20-12fca82f.th", sha256="12fca82f", accuracy=0.9173),
        _resnet(56, params=852_368, macs=125_485_056, file="resnet56-4bfd9763.th", sha256="4bfd9763", accuracy=0.9339),
    ]


def _resnet(depth: int, *, params: int, macs: int, file: str, sha256: str, accuracy: float) -> BackboneSpec:
    return BackboneSpec(
        name=f"resnet{depth}",
        family="resnet",
        num_features=64,
        params=params,
        macs=macs,
        build=partial(_build_module, depth),
        split=_split_module,
        stages=(
            StageSpec(channels=16, stride=1),
            StageSpec(channels=16, stride=1),
            StageSpec(channels=32, stride=2),
            StageSpec(channels=64, stride=4),
        ),
        weights=(
            WeightsSpec(
                tag="cifar10",
                url=f"{_PUBLISHED}/{file}",
                sha256=sha256,
                pretrained_on="CIFAR-10",
                license="BSD-2-Clause",
                input=_INPUT,
                num_classes=10,
                metrics={"acc@1": accuracy},
            ),
        ),
        input=_INPUT,
    )


def _build_module(depth: int) -> nn.Module:
    from zoo_cifar import _build

    return _build.build(depth)


def _split_module(module: nn.Module) -> Backbone:
    from zoo_cifar import _build

    return _build.split(module)
