"""Convolutions that oneDNN gets wrong take another way, to the same result."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zoo.nn.backbone import Backbone
from zoo.nn.onednn import SlicedConv2d, mend_convolutions


@pytest.mark.parametrize("size", [31, 32])
def test_results_and_gradients_are_those_of_the_convolution(size: int) -> None:
    torch.manual_seed(0)
    usual = nn.Conv2d(3, 8, 1, stride=2)
    mended = copy.deepcopy(usual)
    mend_convolutions(mended)
    assert type(mended) is SlicedConv2d
    images = torch.randn(2, 3, size, size)
    # The layout in which the error does not show, against the one in which it does.
    expected, found = usual(images), mended(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    for result in (expected, found):
        result.square().sum().backward()
    torch.testing.assert_close(mended.weight.grad, usual.weight.grad)
    torch.testing.assert_close(mended.bias.grad, usual.bias.grad)


@pytest.mark.parametrize(
    "convolution",
    [nn.Conv2d(3, 8, 3, 2), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(3, 8, 1), nn.Conv2d(4, 8, 1, 2, groups=2)],
    ids=["kernel", "channels", "stride", "groups"],
)
def test_others_are_left_alone(convolution: nn.Conv2d) -> None:
    mend_convolutions(convolution)
    assert type(convolution) is nn.Conv2d


def test_backbones_of_all_plugins_are_mended() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 8, 1, 2))
    Backbone(stages=[stage], pool=nn.Flatten())
    assert type(stage[0]) is SlicedConv2d
