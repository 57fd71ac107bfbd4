"""TrivialAugment: one random operation of random strength (Müller and Hutter 2021), from a given generator.

torchvision's own draws from the generator that the whole process shares, so that threads which prepare images side by
side would get different ones each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

_Operation = Callable[[Tensor, float], Tensor]


def _affine(
    image: Tensor, *, turn: float = 0, x: float = 0, y: float = 0, shear: tuple[float, float] = (0, 0)
) -> Tensor:
    moved: Tensor = tvf.affine(
        image, turn, [round(x), round(y)], 1.0, [math.degrees(math.atan(part)) for part in shear]
    )
    return moved


def _posterize(image: Tensor, strength: float) -> Tensor:
    kept: Tensor = tvf.posterize(image, 8 - round(6 * abs(strength)))
    return kept


OPERATIONS: tuple[_Operation, ...] = (
    lambda image, _: image,
    lambda image, strength: _affine(image, shear=(0.99 * strength, 0)),
    lambda image, strength: _affine(image, shear=(0, 0.99 * strength)),
    lambda image, strength: _affine(image, x=32 * strength),
    lambda image, strength: _affine(image, y=32 * strength),
    lambda image, strength: _affine(image, turn=135 * strength),
    lambda image, strength: tvf.adjust_brightness(image, 1 + 0.99 * strength),
    lambda image, strength: tvf.adjust_saturation(image, 1 + 0.99 * strength),
    lambda image, strength: tvf.adjust_contrast(image, 1 + 0.99 * strength),
    lambda image, strength: tvf.adjust_sharpness(image, 1 + 0.99 * strength),
    _posterize,
    lambda image, strength: tvf.solarize(image, 255 * (1 - abs(strength))),
    lambda image, _: tvf.autocontrast(image),
    lambda image, _: tvf.equalize(image),
)
"""The wide space of the paper (table 6): each takes uint8 pixels [3, H, W] and a strength from -1 to 1."""


def trivial_augment(image: Tensor, randomness: torch.Generator) -> Tensor:
    """A uint8 image [3, H, W] changed by one operation, all equally likely, of a strength uniform in [-1, 1)."""
    choice, strength = torch.rand(2, generator=randomness).tolist()
    return OPERATIONS[int(choice * len(OPERATIONS))](image, 2 * strength - 1)
