"""The contract of pretrained weights: they fit their architecture, and belong to the normalisation that is declared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import WeightsError
from zoo.specs import BackboneSpec, WeightsSpec
from zoo.testing.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

_PHOTOGRAPHS = ("imagenet", "cifar", "places", "inaturalist", "laion", "coco")
"""Source tasks, in `pretrained_on`, whose images have the statistics of natural ones."""
_MEAN, _STD = 0.449, 0.26
"""Of the values, in [0, 1], of natural images: those of ImageNet, all channels together."""
_LUMINANCE = 0.95
"""Natural images are mostly grey: their channels vary together."""
_COUNT = 8
_FACTOR = 1.6
"""The deviations of true weights were measured to be off by 1.2 at most, those of another usual std by 1.8 at least."""
_SHIFT = 1.0
"""In units of std: true ones were measured to be off by less than .4, an image not centred by 2."""


def check_weights(spec: BackboneSpec, weights: WeightsSpec, path: Path) -> list[Finding]:
    """Everything that is wrong with a pretrained set of a backbone, whose file is `path`.

    It must fit what `spec.build()` gives. Where it was trained on photographs and has a BatchNorm, that one remembers
    what it has seen: `weights.input`'s mean and std, applied to images with the spectrum of natural ones, must lead to
    about the same.
    """
    import torch

    from zoo.nn.weights import load_into

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        native = spec.build()
        try:
            load_into(native, path, spec.name)
        except WeightsError as error:
            return [Finding("weights", f"weights {weights.tag!r}: {error}")]
        backbone = spec.split(native).eval()
        if not any(name in weights.pretrained_on.lower() for name in _PHOTOGRAPHS) or weights.input.channels != 3:
            return []
        return list(_normalisation(backbone, weights))


def natural_images(count: int, height: int, width: int) -> Tensor:
    """Random images [count, 3, height, width] in [0, 1] with mean, deviation and spectrum of natural ones.

    The amplitudes of these fall as 1/f: Field 1987, "Relations between the statistics of natural images and the
    response properties of cortical cells".
    """
    import torch

    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    frequency[0, 0] = 1 / max(height, width)

    def noise(channels: int) -> Tensor:
        white = torch.fft.fft2(torch.randn(count, channels, height, width))
        pink: Tensor = torch.fft.ifft2(white / frequency).real
        return pink / pink.std()

    colour = (1 - _LUMINANCE**2) ** 0.5
    images: Tensor = _MEAN + _STD * (_LUMINANCE * noise(1) + colour * noise(3))
    return images.clamp(0, 1)


def _normalisation(backbone: Any, weights: WeightsSpec) -> Iterator[Finding]:
    """Compares what reaches the first BatchNorm with what it reached while the weights were trained."""
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in (weights.input.mean, weights.input.std))
    images = (natural_images(_COUNT, weights.input.height, weights.input.width) - mean) / std
    norm, seen = _first_norm(backbone, images)
    if norm is None:
        return
    deviation, remembered = seen.std((0, 2, 3)), norm.running_var.sqrt()
    alive = (deviation > 0) & (remembered > 0.03 * remembered.max())  # weight decay leaves dead channels
    factor = float((remembered / deviation)[alive].median())
    declared = f"weights {weights.tag!r}, input: mean {_words(mean)} and std {_words(std)} declared"
    if not 1 / _FACTOR < factor < _FACTOR:
        yield Finding(
            "std",
            f"{declared}; by the statistics of the first BatchNorm the true std is about {_words(std / factor)}",
        )
        return
    # A shift of the images by one unit of each colour, and what it makes of the same place.
    units = torch.cat([torch.zeros_like(images[:1]), torch.eye(3)[:, :, None, None].expand_as(images[:3])])
    none, *shifts = _first_norm(backbone, units)[1].mean((2, 3))
    responses = torch.stack([shift - none for shift in shifts], 1)
    scale = remembered[alive, None]
    missing = (seen.mean((0, 2, 3)) - norm.running_mean)[alive, None] / scale
    shift = torch.linalg.lstsq(responses[alive] / scale, missing).solution[:, :, None]
    if shift.abs().max() > _SHIFT:
        yield Finding(
            "mean",
            f"{declared}; by the statistics of the first BatchNorm the true mean is about {_words(mean + shift * std)}",
        )


def _first_norm(backbone: Any, images: Tensor) -> tuple[Any, Any]:
    """The BatchNorm that is reached first, where nothing but linear layers stands before it, and what it is given."""
    import torch

    calls: list[tuple[Any, Any]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, given: calls.append((module, given[0])))
        for module in backbone.modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    for module, given in calls:
        if isinstance(module, torch.nn.BatchNorm2d):
            return module, given
        if not isinstance(module, torch.nn.Conv2d | torch.nn.Identity):
            break
    return None, None


def _words(values: Tensor) -> str:
    return "(" + ", ".join(f"{float(value):.3f}" for value in values.flatten()) + ")"
