"""A small residual network for 32x32 images, trained by this project on letters it renders itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import hookimpl
from zoo.specs import BackboneSpec, ImageInput, StageSpec, WeightsSpec

if TYPE_CHECKING:
    from torch import nn

    from zoo.nn.backbone import Backbone

_INPUT = ImageInput(height=32, width=32, mean=(0.38,) * 3, std=(0.31,) * 3, size_divisor=8, mirror=False)
_LETTERS = 198


@hookimpl
def zoo_backbones() -> list[BackboneSpec]:
    """`glyphnet`, with the weights that ship in the wheel."""
    return [
        BackboneSpec(
            name="glyphnet",
            family="glyphnet",
            num_features=112,
            params=336_448,
            macs=16_281_600,
            build=_build_module,
            split=_split_module,
            stages=(
                StageSpec(channels=32, stride=2),
                StageSpec(channels=32, stride=2),
                StageSpec(channels=64, stride=4),
                StageSpec(channels=112, stride=8),
            ),
            weights=(
                WeightsSpec(
                    tag="glyphs_v1",
                    url="package:zoo_tiny/weights/glyphs_v1.safetensors",
                    sha256="85ce84785beeb82a282e4d158fd7a05f8a37e64da8277199bdb2436f7c28012d",
                    pretrained_on="198 rendered letters (zoo_tiny._train)",
                    license="Apache-2.0",
                    input=_INPUT,
                    num_classes=_LETTERS,
                    metrics={"acc@1": 0.862},
                ),
            ),
            input=_INPUT,
        )
    ]


def _build_module() -> nn.Module:
    from zoo_tiny import _build

    return _build.GlyphNet(_LETTERS)


def _split_module(module: nn.Module) -> Backbone:
    from zoo_tiny import _build

    return _build.split_glyphnet(module)
