"""Backbones side by side, `A + B`: each looks at the image, and the embedding is that of all of them.

It is a backbone like any other. Its activations are tuples, one for each branch; a branch with fewer stages than the
longest one begins so many stages later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.catalogue import BackboneEntry
from zoo.catalogue.composites import PLUS
from zoo.nn.backbone import Backbone
from zoo.nn.chain import IMAGE, Adapter, spec_of_several
from zoo.specs import BackboneSpec, StageSpec

_BRANCH = re.compile(r"\.branches\.(\d+)")


class FirstStage(nn.Module):
    """Images to what each branch begins with, normalised as it wants them."""

    def __init__(self, adapters: Sequence[Adapter], stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*pair) for pair in zip(adapters, stages, strict=True))

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """The activation of each branch, of normalised images [N, 3, H, W]."""
        return tuple(branch(images) for branch in self.branches)


class Stage(nn.Module):
    """A stage of each branch."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, activations: tuple[Any, ...]) -> tuple[Any, ...]:
        """The activations one stage further on."""
        return tuple(branch(activations[number]) for number, branch in enumerate(self.branches))


class Pool(nn.Module):
    """The embeddings of all branches, each multiplied by a number, so that they are of one scale."""

    scales: Tensor

    def __init__(self, pools: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(pools)
        self.register_buffer("scales", torch.ones(len(pools)))

    def forward(self, activations: tuple[Any, ...]) -> Tensor:
        """Embeddings [N, D], D being that of all branches together."""
        found = [branch(activations[number]) * self.scales[number] for number, branch in enumerate(self.branches)]
        return torch.cat(found, 1)


@dataclass(frozen=True, kw_only=True)
class FusedEntry:
    """Backbones side by side, known as a single one is."""

    links: tuple[BackboneEntry, ...]
    upstream_stages = 0

    @property
    def id(self) -> str:
        """`<plugin>/<name> + <plugin>/<name>`."""
        return PLUS.join(link.id for link in self.links)

    @property
    def source(self) -> str:
        """The distributions that brought the plugins, with versions."""
        return PLUS.join(link.source for link in self.links)

    def member_of(self, scope: str) -> int | None:
        """The backbone that a module belongs to, by its name in a model; None for what belongs to all."""
        branch = _BRANCH.search(scope)
        return int(branch[1]) if branch else None

    @cached_property
    def spec(self) -> BackboneSpec:
        """The facts of the whole; `build` gives it already split."""
        specs = [link.spec for link in self.links]
        return spec_of_several(
            specs,
            lambda: self.assemble([spec.split(spec.build()) for spec in specs]),
            given=specs[0].input,
            family="fusion",
            stages=self._stages(specs),
            num_features=sum(spec.num_features for spec in specs),
        )

    def assemble(self, backbones: Sequence[Backbone], adapters: Sequence[Adapter] | None = None) -> Backbone:
        """The whole, of the backbones of all branches; untrained adapters where there are none."""
        adapters = adapters or [Adapter(IMAGE, IMAGE) for _ in backbones]
        count = max(len(backbone.stages) for backbone in backbones)
        rows = [[nn.Identity()] * (count - len(backbone.stages)) + [*backbone.stages] for backbone in backbones]
        first, *rest = zip(*rows, strict=True)
        return Backbone(
            stages=[FirstStage(adapters, first), *(Stage(row) for row in rest)],
            pool=Pool([backbone.pool for backbone in backbones]),
        )

    def _stages(self, specs: Sequence[BackboneSpec]) -> tuple[StageSpec, ...]:
        count = max(len(spec.stages) for spec in specs)
        rows = [[None] * (count - len(spec.stages)) + [*spec.stages] for spec in specs]
        return tuple(_together(row) for row in zip(*rows, strict=True))


def _together(branches: Sequence[StageSpec | None]) -> StageSpec:
    begun = [branch for branch in branches if branch is not None]
    return StageSpec(
        channels=sum(branch.channels for branch in begun),
        stride=max(branch.stride for branch in begun),
        layout=begun[0].layout,
        branches=tuple(branches),
    )
