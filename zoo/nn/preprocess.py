"""Raw pixels in, normalised tensor out: the one preprocessing that training, export and serving share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.nn.resizing import resize_and_crop
from zoo.specs import ImageInput


class Preprocess(nn.Module):
    """uint8 images [N, H, W, 3] of any size -> normalised float [N, 3, height, width].

    Short side to `height / crop_fraction` with antialias, centre crop, normalise: torchvision's evaluation
    transform in floating point. Float rather than uint8 resizing on purpose: the uint8 kernels of torch and ONNX
    Runtime round differently by one level here and there (measured: 0.08 % of pixels of enlarged photographs,
    and up to 0.011 in probability with bicubic), the float ones agree to 1e-5.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageInput) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1) * 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised [N, 3, height, width] from uint8 [N, H, W, 3]; H and W may be symbolic while exporting."""
        return self.normalise(self.resize_and_crop(image))

    def resize_and_crop(self, image: Tensor) -> Tensor:
        """Float pixels in [0, 255], [N, 3, height, width], from uint8 [N, H, W, 3]."""
        spec = self.spec
        return resize_and_crop(image, spec.resized, (spec.height, spec.width), spec.interpolation)

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels - mean) / std per channel, from float pixels in [0, 255]."""
        mean, std = self.mean, self.std
        if torch.compiler.is_exporting():
            # For each pixel of a row: ONNX Runtime moves channels last where a network is in eight bits, and then takes
            # 25 times as long for three numbers in each pixel's turn.
            mean, std = (each.expand(-1, -1, 1, self.spec.width) for each in (mean, std))
        return (pixels - mean) / std
