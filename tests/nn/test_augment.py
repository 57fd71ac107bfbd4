"""Augmentation varies images reproducibly and keeps what must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import draw

from zoo.nn.augment import augment_image, warp_batch
from zoo.nn.engine import generator
from zoo.nn.trivial import OPERATIONS, trivial_augment
from zoo.specs import ImageInput


@pytest.mark.parametrize("policy", ["gentle", "crop", "trivial"])
def test_same_randomness_same_image(policy: Any) -> None:
    image = torch.from_numpy(draw("rings", 0, (60, 80)))
    spec = ImageInput(height=32, width=32)
    first, again, other = (augment_image(image, spec, policy, generator("test", seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() <= first.max() <= 255


def test_mirror_only_where_allowed() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1)[:, :, None].repeat(1, 1, 3) * 3
    rising = {
        mirror: [
            bool((cut[0, :, -1] > cut[0, :, 0]).all())
            for cut in (
                augment_image(ramp, ImageInput(height=32, width=32, mirror=mirror), "crop", generator(seed))
                for seed in range(20)
            )
        ]
        for mirror in (True, False)
    }
    assert all(rising[False])
    assert 3 < sum(rising[True]) < 17


def test_warp_keeps_shape_range_and_centre() -> None:
    pixels = torch.zeros(8, 3, 33, 33)
    pixels[:, :, 10:23, 10:23] = 255
    warped = warp_batch(pixels, [generator("warp", image) for image in range(len(pixels))])
    assert warped.shape == pixels.shape
    assert -1e-3 <= warped.min() <= warped.max() <= 255.001
    assert (warped[:, :, 16, 16] > 128).all()  # a shift of a tenth does not lose the middle
    assert not torch.equal(warped, pixels)


def test_every_operation_keeps_shape_and_kind_and_does_something() -> None:
    image = torch.randint(40, 200, (3, 48, 48), dtype=torch.uint8, generator=generator("pixels"))
    changed = []
    for operation in OPERATIONS:
        for strength in (-1.0, -0.4, 0.0, 0.7, 1.0):
            found = operation(image, strength)
            assert (found.shape, found.dtype) == (image.shape, torch.uint8)
        changed.append(not torch.equal(operation(image, 0.7), image))
    assert changed == [False] + [True] * (len(OPERATIONS) - 1)
    first, again = (trivial_augment(image, generator("t", 3)) for _ in range(2))
    assert torch.equal(first, again)
