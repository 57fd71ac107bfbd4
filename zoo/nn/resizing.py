"""Resizing and cropping of raw pixels: in torch, and as the operators that ONNX Runtime does the least work for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_CUBIC = -0.5
"""The coefficient of bicubic interpolation with antialias in torch; -0.75 without."""


def resize_and_crop(image: Tensor, resized: Sequence[int], size: Sequence[int], interpolation: str) -> Tensor:
    """Float pixels in [0, 255], [N, 3, *size], from uint8 [N, H, W, 3].

    One scale for both sides, from whichever side needs the larger one to become as large as `resized` (the short side
    of a square input), with antialias; then the centre.
    """
    if torch.compiler.is_exporting():
        found: Tensor = _operator(image, list(resized), list(size), interpolation)
        return found
    # Contiguous: resizing planes is half as much work again faster than resizing interleaved channels.
    pixels = image.permute(0, 3, 1, 2).float().contiguous()
    height, width = pixels.shape[2:]
    whole = [max(resized[0], height * resized[1] // width), max(resized[1], width * resized[0] // height)]
    pixels = F.interpolate(pixels, whole, mode=interpolation, antialias=True)
    top, left = (_half(given - wanted) for given, wanted in zip(whole, size, strict=True))
    pixels = pixels[:, :, top : top + size[0], left : left + size[1]]
    # Bicubic overshoots at edges; pixels do not.
    return pixels.clamp(0, 255) if interpolation == "bicubic" else pixels


def _half(size: int) -> int:
    """Half of `size`, a half pixel going to the even neighbour as in torchvision's centre crop."""
    return (size + size // 2 % 2) // 2


_operator = torch.library.custom_op(
    "zoo::resize_and_crop",
    resize_and_crop,
    mutates_args=(),
    schema=("(Tensor image, int[] resized, int[] size, str interpolation) -> Tensor"),
)


@_operator.register_fake
def _shape(image: Tensor, _resized: Sequence[int], size: Sequence[int], _interpolation: str) -> Tensor:
    return image.new_empty((image.shape[0], 3, *size), dtype=torch.float32)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What the exporter to ONNX writes for the operator of this module."""
    return {torch.ops.zoo.resize_and_crop.default: _onnx}


def _onnx(image: Any, resized: Sequence[int], size: Sequence[int], interpolation: str) -> Any:
    """The same in ONNX. A side that already has the size it would be resized to is cropped at once, in bytes: nothing
    is then left for the resizing and the crop behind it but a copy of what is needed."""
    import onnxscript  # takes a second, and only an export needs it

    op: Any = onnxscript.opset20

    def const(*values: int) -> Any:
        return op.Constant(value_ints=values)

    given = op.Shape(image, start=1, end=3)
    scaled = op.Div(op.Mul(given, const(*reversed(resized))), op.Gather(given, const(1, 0)))
    whole = op.Max(scaled, const(*resized))
    spare = op.Sub(whole, const(*size))
    start = op.Div(op.Add(spare, op.Mod(op.Div(spare, const(2)), const(2))), const(2))  # `_half`
    fits = op.Equal(whole, given)
    first = op.Where(fits, start, const(0))
    image = op.Slice(image, first, op.Where(fits, op.Add(start, const(*size)), given), const(1, 2))
    pixels = op.Cast(op.Transpose(image, perm=(0, 3, 1, 2)), to=1)
    pixels = op.Resize(
        pixels,
        None,
        None,
        # Not by `axes`: ONNX Runtime moves a Transpose behind a Resize as if it had none.
        op.Concat(op.Shape(pixels, end=2), op.Where(fits, const(*size), whole), axis=0),
        mode={"bilinear": "linear", "bicubic": "cubic"}[interpolation],
        antialias=1,
        exclude_outside=1,
        cubic_coeff_a=_CUBIC,
    )
    rest = op.Sub(start, first)
    pixels = op.Slice(pixels, rest, op.Add(rest, const(*size)), const(2, 3))
    if interpolation != "bicubic":
        return pixels
    return op.Clip(pixels, op.Constant(value_float=0.0), op.Constant(value_float=255.0))
