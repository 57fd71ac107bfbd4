"""Raw pixels in, normalised tensor out: the one preprocessing that training, export and serving share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        # Contiguous: resizing planes is half as much work again faster than resizing interleaved channels.
        pixels = image.permute(0, 3, 1, 2).float().contiguous()
        height, width = pixels.shape[2], pixels.shape[3]
        # One scale for both sides, from whichever side needs the larger one (the short side of a square input).
        resized_h, resized_w = spec.resized
        size = [
            torch.sym_max(resized_h, height * resized_w // width),
            torch.sym_max(resized_w, width * resized_h // height),
        ]
        pixels = F.interpolate(pixels, size, mode=spec.interpolation, antialias=True)  # type: ignore[arg-type]
        top, left = _half(size[0] - spec.height), _half(size[1] - spec.width)
        if torch.compiler.is_exporting():
            # Rows and columns by index and not a slice: the exporter then knows that the size is fixed from here on,
            # and takes 3 s for a small network where the sizes of slices, carried through every layer, cost it 30.
            pixels = pixels.index_select(2, torch.arange(spec.height, device=pixels.device) + top)
            pixels = pixels.index_select(3, torch.arange(spec.width, device=pixels.device) + left)
        else:
            pixels = pixels[:, :, top : top + spec.height, left : left + spec.width]
        # Bicubic overshoots at edges; pixels do not.
        return pixels.clamp(0, 255) if spec.interpolation == "bicubic" else pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels - mean) / std per channel, from float pixels in [0, 255]."""
        return (pixels - self.mean) / self.std


def _half(size: int | torch.SymInt) -> int | torch.SymInt:
    """Half of `size`, a half pixel going to the even neighbour as in torchvision's centre crop."""
    half = size // 2
    return half + size % 2 * (half % 2)
