"""The torch side: torchvision's own modules, and how each family falls into stages.

No stage closes over another or changes its input in place, so that any stage's output can be cached and resumed from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from zoo.nn.backbone import Backbone

_SIZED = {"vit_b_16_384": ("vit_b_16", 384)}
"""Architectures whose position embeddings depend on the input size: one backbone per size."""


def build(name: str) -> nn.Module:
    """The untrained torchvision model with its ImageNet classifier."""
    if name in _SIZED:
        architecture, size = _SIZED[name]
        sized: nn.Module = torchvision.models.get_model(architecture, weights=None, image_size=size)
        return sized
    plain: nn.Module = torchvision.models.get_model(name, weights=None)
    return plain


def published_weights(name: str) -> list[Any]:
    """torchvision's weights entries that load into `build(name)`."""
    architecture, size = _SIZED.get(name, (name, None))
    entries = list(torchvision.models.get_model_weights(architecture))
    others = [other for base, other in _SIZED.values() if base == name]
    sizes = {entry: entry.transforms().crop_size[0] for entry in entries}
    return [entry for entry in entries if (sizes[entry] == size if size else sizes[entry] not in others)]


def split(name: str, module: nn.Module) -> Backbone:
    """The staged backbone of a torchvision model, sharing its parameters."""
    family = next(family for prefix, family in _FAMILIES.items() if name.startswith(prefix))
    return family(module)


def _pooled(stages: Sequence[nn.Module], pool: nn.Module, classifier: nn.Module) -> Backbone:
    return Backbone(stages=stages, pool=pool, source_head=nn.Sequential(pool, classifier))


def _average() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _cut(features: Sequence[nn.Module], starts: Sequence[int]) -> list[nn.Module]:
    """Consecutive slices of `features` beginning at `starts`."""
    return [
        nn.Sequential(*features[start:stop]) for start, stop in zip(starts, [*starts[1:], len(features)], strict=True)
    ]


def _resnet(module: Any) -> Backbone:
    stem = nn.Sequential(module.conv1, module.bn1, module.relu, module.maxpool)
    return _pooled([stem, module.layer1, module.layer2, module.layer3, module.layer4], _average(), module.fc)


def _mobilenet(*starts: int) -> Callable[[Any], Backbone]:
    """Networks whose `features` are followed by an average: a stage begins where the stride changes."""

    def split_features(module: Any) -> Backbone:
        return _pooled(_cut(list(module.features), starts), _average(), module.classifier)

    return split_features


def _squeezenet(*starts: int) -> Callable[[Any], Backbone]:
    """Its classifier is a convolution on the last map, with dropout before it."""

    def split_features(module: Any) -> Backbone:
        stages = _cut(list(module.features), starts)
        return Backbone(stages=stages, pool=_average(), source_head=nn.Sequential(module.classifier, nn.Flatten()))

    return split_features


def _convnext(module: Any) -> Backbone:
    features = list(module.features)
    norm, flatten, linear = module.classifier
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), norm, flatten)
    return _pooled([features[0], *_cut(features[1:], (0, 1, 3, 5))], pool, linear)


def _regnet(module: Any) -> Backbone:
    return _pooled([module.stem, *module.trunk_output], _average(), module.fc)


def _densenet(module: Any) -> Backbone:
    features = module.features
    last = nn.Sequential(features.transition3, features.denseblock4, features.norm5, nn.ReLU())
    stages = [
        nn.Sequential(features.conv0, features.norm0, features.relu0, features.pool0),
        features.denseblock1,
        nn.Sequential(features.transition1, features.denseblock2),
        nn.Sequential(features.transition2, features.denseblock3),
        last,
    ]
    return _pooled(stages, _average(), module.classifier)


def _vgg(module: Any) -> Backbone:
    """The embedding is the average of the last map: the two wide layers behind it hold 90 % of the parameters."""
    features = list(module.features)
    pools = [number for number, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    stages = _cut(features, [0, *(number + 1 for number in pools[:-1])])
    head = nn.Sequential(module.avgpool, nn.Flatten(), module.classifier)
    return Backbone(stages=stages, pool=_average(), source_head=head)


class _Tokens(nn.Module):
    """Patches to tokens: class token first, positions added."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.conv_proj = module.conv_proj
        self.class_token = module.class_token
        self.pos_embedding = module.encoder.pos_embedding
        self.dropout = module.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        # `shape[0]`, not `len`: that would fix the batch size in an export.
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], 1)
        embedded: Tensor = self.dropout(tokens + self.pos_embedding)
        return embedded


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _vit(module: Any) -> Backbone:
    blocks = list(module.encoder.layers)
    stages = [_Tokens(module), *_cut(blocks, (0, 3, 6, 9))]
    stages[-1] = nn.Sequential(*blocks[9:], module.encoder.ln)
    return _pooled(stages, _ClassToken(), module.heads)


def _swin(module: Any) -> Backbone:
    features = list(module.features)
    stages = _cut(features, (0, 1, 2, 4, 6))
    stages[-1] = nn.Sequential(*features[6:], module.norm)
    return _pooled(stages, nn.Sequential(module.permute, nn.AdaptiveAvgPool2d(1), nn.Flatten()), module.head)


_FAMILIES: dict[str, Callable[[Any], Backbone]] = {
    "resnet": _resnet,
    "mobilenet_v2": _mobilenet(0, 2, 4, 7, 14),
    "mobilenet_v3_small": _mobilenet(0, 1, 2, 4, 9),
    "mobilenet_v3_large": _mobilenet(0, 2, 4, 7, 13),
    "squeezenet1_0": _squeezenet(0, 3, 7, 12),
    "squeezenet1_1": _squeezenet(0, 3, 6, 9),
    "efficientnet_v2": _mobilenet(0, 2, 3, 4, 6),
    "efficientnet": _mobilenet(0, 2, 3, 4, 6),
    "convnext": _convnext,
    "regnet": _regnet,
    "densenet": _densenet,
    "vgg": _vgg,
    "vit": _vit,
    "swin": _swin,
}
