"""Around an error of oneDNN, which computes convolutions on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BLOCK = 16
"""Channels that its kernels take at once, with AVX-512."""


class SlicedConv2d(nn.Conv2d):
    """A strided convolution of single pixels that takes the pixels it needs first, and then each one of them.

    With few input channels, laid out channels-last, oneDNN writes past the end of its workspace while it computes the
    gradient of the weights: wrong gradients or a crash (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps [N, C, H, W] as `nn.Conv2d` gives them."""
        if input.device.type != "cpu" or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        rows, columns = self.stride
        return nn.functional.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def mend_convolutions(module: nn.Module) -> None:
    """Makes those convolutions in `module` that the error concerns take the way around it."""
    for each in module.modules():
        if type(each) is nn.Conv2d and _concerned(each):
            each.__class__ = SlicedConv2d


def _concerned(convolution: nn.Conv2d) -> bool:
    points = convolution.kernel_size == (1, 1) and convolution.padding == (0, 0) and convolution.groups == 1
    return points and convolution.stride != (1, 1) and convolution.in_channels < _BLOCK
