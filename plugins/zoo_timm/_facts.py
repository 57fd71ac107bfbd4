"""What timm itself knows of its models, as facts of backbones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_url
from timm.models import (
    PretrainedCfg,
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    is_model,
    list_models,
    load_model_config_from_hf,
)
from torch import Tensor

from zoo.errors import UsageError, did_you_mean
from zoo.nn.backbone import Backbone
from zoo.nn.size import count_macs, count_params
from zoo.specs import BackboneSpec, ImageInput, WeightsSpec
from zoo_timm._find import describe, find_split

_CLASSES = 1000
"""Of the classifier where no pretrained set says otherwise."""
_DIVISORS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64)
_SOURCES = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "datacomp1b": "DataComp-1B",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "openai": "WIT-400M",
    "webli": "WebLI",
    "yfcc15m": "YFCC-15M",
    "yfcc100m": "YFCC-100M",
    "inat21": "iNaturalist 2021",
    "ig1b": "Instagram-1B",
}
"""Data sets by their names in tags; a tag tells them in the order of training."""


_HUB = "hf-hub:"


@cache
def resolve(name: str) -> BackboneSpec:
    """The backbone of a timm model: `resnet18`, with one pretrained set as timm writes it (`resnet18.a1_in1k`), or
    `hf-hub:OWNER/REPOSITORY`, which asks the hub.

    Raises UsageError for a name that timm does not have, and for a model that gives no single tensor.
    """
    if name.startswith(_HUB):
        facts, architecture, arguments = load_model_config_from_hf(name.removeprefix(_HUB))
        config = PretrainedCfg(**{**facts, "hf_hub_id": name.removeprefix(_HUB)})
        return _spec(name, architecture, arguments or {}, [config])
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        hint = did_you_mean(architecture, list_models()) or "`timm.list_models()` lists them"
        raise UsageError(f"no model of timm {timm.__version__}: {architecture!r}; {hint}")
    configs = _pretrained(architecture)
    if tag:
        tags = [config.tag for config in configs]
        if tag not in tags:
            hint = did_you_mean(tag, tags) or f"known: {', '.join(tags) or 'none'}"
            raise UsageError(f"unknown weights of timm/{architecture}: {tag!r}; {hint}")
        configs = [config for config in configs if config.tag == tag]
    return _spec(name, architecture, {}, configs)


def _pretrained(architecture: str) -> list[PretrainedCfg]:
    """The published sets of an architecture that one can fetch, its default first."""
    configs = [get_pretrained_cfg(name) for name in get_arch_pretrained_cfgs(architecture)]
    default = get_pretrained_cfg(architecture)
    return sorted((config for config in configs if config.hf_hub_id), key=lambda config: config != default)


def _spec(name: str, architecture: str, arguments: dict[str, Any], configs: Sequence[PretrainedCfg]) -> BackboneSpec:
    # Weights load strictly, the source classifier included: those of another number of classes are backbones of their
    # own, `architecture.tag`.
    classes = configs[0].num_classes if configs else _CLASSES
    configs = [config for config in configs if config.num_classes == classes]
    build = partial(timm.create_model, architecture, **{**arguments, "num_classes": classes})
    with torch.device("meta"):
        model = build().eval()
        channels, height, width = configs[0].input_size if configs else model.pretrained_cfg["input_size"]
        images = torch.zeros(2, channels, height, width)
    try:
        split, activations, embedding = find_split(model, images)
    except TypeError as error:
        raise UsageError(f"timm/{name} has no features Zoo can use: {error}; take another") from None
    staged = split.apply(model)
    default = configs[0] if configs else PretrainedCfg(**model.pretrained_cfg)
    sizes = [config.input_size[1:] for config in configs or [default]]
    divisor = None if default.fixed_input_size else _size_divisor(staged, images, sizes)
    inputs = [_input(config, divisor) for config in configs or [default]]
    return BackboneSpec(
        name=name,
        family=type(model).__module__.rpartition(".")[2],
        num_features=embedding.shape[1],
        params=count_params([*staged.stages, staged.pool]),
        macs=count_macs(staged, images[:1]),
        build=build,
        split=split.apply,
        stages=tuple(describe(activation, images, model) for activation in activations),
        weights=tuple(_weights(config, given) for config, given in zip(configs, inputs, strict=False)),
        input=inputs[0],
    )


def _weights(config: PretrainedCfg, given: ImageInput) -> WeightsSpec:
    file = config.hf_hub_filename or "model.safetensors"
    sources = [_SOURCES[word] for word in str(config.tag).split("_") if word in _SOURCES]
    return WeightsSpec(
        tag=config.tag or "pretrained",
        url=hf_hub_url(config.hf_hub_id, file),
        file_name=f"{str(config.hf_hub_id).replace('/', '--')}{Path(file).suffix}",
        sha256=None,
        pretrained_on=", then ".join(sources) or config.tag or "unknown",
        license=config.license or "unknown",
        input=given,
        num_classes=config.num_classes,
    )


def _input(config: PretrainedCfg, divisor: int | None) -> ImageInput:
    _, height, width = config.input_size
    return ImageInput(
        height=height,
        width=width,
        mean=tuple(config.mean),
        std=tuple(config.std),
        crop_fraction=config.crop_pct,
        interpolation="bicubic" if config.interpolation == "bicubic" else "bilinear",
        size_divisor=divisor or 1,
        fixed_size=divisor is None,
    )


def _size_divisor(backbone: Backbone, images: Tensor, sizes: Sequence[tuple[int, int]]) -> int | None:
    """By how much an input may grow, found by trying; None where it may not."""
    for divisor in _DIVISORS:
        if any(side % divisor for size in sizes for side in size):
            continue
        larger = images.new_zeros(2, images.shape[1], *(side + divisor for side in images.shape[2:]))
        try:
            with torch.no_grad():
                backbone(larger)
        except (AssertionError, RuntimeError, ValueError):
            continue
        return divisor
    return None
