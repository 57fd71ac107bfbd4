"""The torch side of the small network that takes noise out of images."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from zoo.nn.backbone import Backbone

_CHANNELS = 32
_LAYERS = 4
_FOLD = 2


class Denoiser(nn.Module):
    """Says what is noise in an image and takes it off, of whatever strength (DnCNN: Zhang et al. 2017).

    It works on 2 x 2 pixels as one position (FFDNet: Zhang, Zuo and Zhang 2018): a quarter of the work, and twice the
    view. There is no BatchNorm: the mean brightness of an image would go through it.
    """

    def __init__(self) -> None:
        super().__init__()
        inner = 3 * _FOLD**2
        widths = (inner, *[_CHANNELS] * (_LAYERS + 1))
        layers: list[nn.Module] = [nn.PixelUnshuffle(_FOLD)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.noise = nn.Sequential(*layers, nn.Conv2d(_CHANNELS, inner, 3, padding=1), nn.PixelShuffle(_FOLD))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] of any size without their noise, normalised as those given."""
        height, width = images.shape[2:]
        whole = F.pad(images, (0, -width % _FOLD, 0, -height % _FOLD), mode="replicate")
        noise: Tensor = self.noise(whole)
        return images - noise[:, :, :height, :width]


def split_denoiser(module: nn.Module) -> Backbone:
    """One stage, which gives images: a later one would need the image beside the activation. Shares the parameters."""
    from zoo.nn.backbone import Backbone

    return Backbone(stages=[module], pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
