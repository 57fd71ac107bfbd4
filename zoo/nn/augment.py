"""Random changes of training images that keep their label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvf

from zoo.nn.trivial import trivial_augment
from zoo.specs import ImageInput

Augment = Literal["none", "gentle", "crop", "trivial", "affine"]
"""`gentle` and `crop`: random resized crops of 60 % or 35 % of the area and more, mirrored where the input allows;
`trivial`: such a crop of 35 %, then TrivialAugment; `affine`: shift, turn, scale, shear. Never a flip for `affine`: it
is for glyphs and other images with a right way round."""

_CROP_AREA: dict[Augment, float] = {"gentle": 0.6, "crop": 0.35, "trivial": 0.35}
_CROP_RATIO = (3 / 4, 4 / 3)
_TURN = math.radians(12)
_SHIFT = 0.1
_SCALE = 0.12
_SHEAR = 0.15


def augment_image(image: Tensor, spec: ImageInput, policy: Augment, randomness: torch.Generator) -> Tensor:
    """Float pixels [3, height, width] in [0, 255] of a random crop of a uint8 image [H, W, 3]; not for `affine`.

    The crop has an aspect ratio of 3:4 to 4:3 (Szegedy et al. 2015, GoogLeNet) and is mirrored half of the time where
    `spec.mirror` allows.
    """
    pixels = image.permute(2, 0, 1)
    height, width = pixels.shape[1:]
    draws = torch.rand(5, generator=randomness).tolist()
    smallest = _CROP_AREA[policy]
    area = height * width * (smallest + (1 - smallest) * draws[0])
    low, high = math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])
    ratio = math.exp(low + (high - low) * draws[1])
    crop_w = max(1, min(width, round(math.sqrt(area * ratio))))
    crop_h = max(1, min(height, round(math.sqrt(area / ratio))))
    top, left = int(draws[2] * (height - crop_h + 1)), int(draws[3] * (width - crop_w + 1))
    size = [spec.height, spec.width]
    # uint8 on purpose: several times faster on the CPU, and rounding to a level is nothing beside the crop itself.
    cut: Tensor = tvf.resized_crop(pixels, top, left, crop_h, crop_w, size, antialias=True)
    if spec.mirror and draws[4] < 0.5:
        cut = cut.flip(-1)
    return (trivial_augment(cut, randomness) if policy == "trivial" else cut).float()


def warp_batch(pixels: Tensor, randomness: Sequence[torch.Generator]) -> Tensor:
    """Float pixels [N, 3, H, W], each image turned, scaled, sheared and shifted a little at random of its own."""
    count = len(pixels)
    draws = torch.stack([torch.rand(6, generator=own) for own in randomness]) * 2 - 1
    turn, shear = draws[:, 0] * _TURN, draws[:, 1] * _SHEAR
    scale_x, scale_y = 1 + draws[:, 2] * _SCALE, 1 + draws[:, 3] * _SCALE
    cos, sin = turn.cos(), turn.sin()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos * scale_x, (shear * cos - sin) * scale_x
    theta[:, 1, 0], theta[:, 1, 1] = sin * scale_y, (shear * sin + cos) * scale_y
    theta[:, :, 2] = draws[:, 4:6] * 2 * _SHIFT  # grid coordinates span 2
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
