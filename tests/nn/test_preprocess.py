"""The preprocessing inside the network gives what torchvision's evaluation transform gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import draw
from torchvision.transforms import v2

from zoo.nn.preprocess import Preprocess
from zoo.specs import ImageInput


@pytest.mark.parametrize("size", [(40, 48), (300, 200), (97, 250), (32, 32)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_like_torchvision(size: tuple[int, int], interpolation: str) -> None:
    spec = ImageInput(height=64, width=64, crop_fraction=0.875, interpolation=interpolation)  # type: ignore[arg-type]
    image = draw("dots", 5, size)
    reference = v2.Compose(
        [
            v2.Resize(73, v2.InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(64),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )(torch.from_numpy(image).permute(2, 0, 1))
    found = Preprocess(spec)(torch.from_numpy(image)[None])[0]
    # torchvision rounds to whole levels after resizing; a level is 1/255 / 0.22.
    assert torch.allclose(found, reference, atol=1.1 / 255 / min(spec.std))


def test_every_size_gives_the_input_size() -> None:
    spec = ImageInput(height=32, width=32)
    for size in ((1, 1), (1, 50), (31, 33), (500, 20)):
        assert Preprocess(spec)(torch.from_numpy(draw("bars", 1, size))[None]).shape == (1, 3, 32, 32)


def test_a_batch_is_its_images() -> None:
    preprocess = Preprocess(ImageInput(height=32, width=32))
    images = torch.from_numpy(np.stack([draw("bars", seed) for seed in range(3)]))
    together = preprocess(images)
    assert all(torch.equal(together[row], preprocess(images[row : row + 1])[0]) for row in range(3))
