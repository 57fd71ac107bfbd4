"""A chain: backbones one after the other, the map of one being the input of a later stage of the next.

It is a backbone like any other, `A[:7] -> B[5:]`: seven stages of A, an adapter, and the stages of B from number 5 on.
What a stage hands on is a map; that of a model whose last stage gives images again (three channels, stride 1) is an
image, which the next one takes from its first stage on.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.catalogue import BackboneEntry
from zoo.catalogue.composites import ARROW, Joint
from zoo.errors import UsageError
from zoo.nn.backbone import Backbone
from zoo.nn.size import count_macs, count_params
from zoo.specs import BackboneSpec, ImageInput, StageSpec

IMAGE = StageSpec(channels=3, stride=1)
"""What the first stage of a backbone takes."""
_STAGE = re.compile(r"backbone\.stages\.(\d+)")
_LAYOUTS = ("NCHW", "NHWC")


class Adapter(nn.Module):
    """Maps as one backbone gives them to maps as a stage of another expects them: linear, at each position alone."""

    def __init__(self, source: StageSpec, target: StageSpec) -> None:
        super().__init__()
        self.linear = nn.Conv2d(source.channels, target.channels, 1)
        self.from_last = source.layout == "NHWC"
        self.to_last = target.layout == "NHWC"

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the target's channels and layout; as high and wide as `maps`."""
        found: Tensor = self.linear(maps.permute(0, 3, 1, 2) if self.from_last else maps)
        return found.permute(0, 2, 3, 1) if self.to_last else found


@dataclass(frozen=True, kw_only=True)
class ChainEntry:
    """Backbones one after the other, known as a single one is."""

    links: tuple[BackboneEntry, ...]
    joints: tuple[Joint, ...]

    def __post_init__(self) -> None:
        for number, (joint, pair) in enumerate(zip(self.joints, pairwise(self.links), strict=True)):
            begins = self.joints[number - 1].start if number else 0
            _check(joint, begins, *pair)

    @property
    def id(self) -> str:
        """`<plugin>/<name>[:7] -> <plugin>/<name>[5:]`."""
        starts = ["", *(joint.start for joint in self.joints)]
        stops = [*(joint.stop for joint in self.joints), ""]
        return ARROW.join(
            f"{link.id}[{start}:{stop}]" for link, start, stop in zip(self.links, starts, stops, strict=True)
        )

    @property
    def source(self) -> str:
        """The distributions that brought the plugins, with versions."""
        return ARROW.join(link.source for link in self.links)

    @property
    def first_stages(self) -> tuple[int, ...]:
        """The number that the first stage of each backbone has in the whole."""
        found = [0]
        for number, joint in enumerate(self.joints):
            found.append(found[-1] + joint.stop - (self.joints[number - 1].start if number else 0))
        return tuple(found)

    @property
    def upstream_stages(self) -> int:
        """The stages before those of the last backbone."""
        return self.first_stages[-1]

    def member_of(self, scope: str) -> int | None:
        """The backbone that a module belongs to, by its name in a model; None for what belongs to no stage."""
        stage = _STAGE.search(scope)
        return bisect_right(self.first_stages, int(stage[1])) - 1 if stage else None

    @cached_property
    def spec(self) -> BackboneSpec:
        """The facts of the whole; `build` gives it already split."""
        specs = [link.spec for link in self.links]
        return spec_of_several(
            specs,
            lambda: self.assemble([spec.split(spec.build()) for spec in specs]),
            given=whole_input(specs, [spec.input for spec in specs]),
            family="chain",
            stages=self._stages(specs),
            num_features=specs[-1].num_features,
        )

    def assemble(self, backbones: Sequence[Backbone], adapters: Sequence[Adapter] | None = None) -> Backbone:
        """The whole, of the backbones of all links; an adapter is part of the stage that it leads to."""
        whole = list(backbones[0].stages[: self.joints[0].stop])
        stops = [*(joint.stop for joint in self.joints[1:]), None]
        for number, (joint, stop) in enumerate(zip(self.joints, stops, strict=True)):
            first, *rest = backbones[number + 1].stages[joint.start : stop]
            adapter = adapters[number] if adapters is not None else self.adapter(number)
            whole += [nn.Sequential(adapter, first), *rest]
        return Backbone(stages=whole, pool=backbones[-1].pool)

    def adapter(self, number: int) -> Adapter:
        """An untrained adapter for the joint of this number."""
        joint, before, after = self.joints[number], self.links[number].spec, self.links[number + 1].spec
        return Adapter(before.stages[joint.stop - 1], taken(after, joint.start))

    def _stages(self, specs: Sequence[BackboneSpec]) -> tuple[StageSpec, ...]:
        starts, stops = [0, *(joint.start for joint in self.joints)], [*(joint.stop for joint in self.joints), None]
        parts = (spec.stages[start:stop] for spec, start, stop in zip(specs, starts, stops, strict=True))
        return tuple(stage for part in parts for stage in part)


def spec_of_several(
    specs: Sequence[BackboneSpec],
    build: Callable[[], Backbone],
    *,
    given: ImageInput,
    family: str,
    stages: Sequence[StageSpec],
    num_features: int,
) -> BackboneSpec:
    """The facts of what `build` makes of several backbones, and which takes `given`."""

    def split(module: nn.Module) -> Backbone:
        assert isinstance(module, Backbone)
        return module

    with torch.random.fork_rng(devices=[]):  # only to be counted: nobody's random numbers change
        backbone = build().eval()
    return BackboneSpec(
        name="-".join(spec.name for spec in specs),
        family=family,
        num_features=num_features,
        params=count_params([*backbone.stages, backbone.pool]),
        macs=count_macs(backbone, torch.zeros(1, given.channels, given.height, given.width)),
        build=build,
        split=split,
        stages=stages,
        weights=(),
        input=given,
    )


def taken(spec: BackboneSpec, stage: int) -> StageSpec:
    """What the stage of this number takes."""
    return spec.stages[stage - 1] if stage else IMAGE


def gives_images(spec: BackboneSpec) -> bool:
    """Whether the last stage gives images, normalised as those that the backbone takes."""
    return spec.stages[-1] == IMAGE


def whole_input(specs: Sequence[BackboneSpec], inputs: Sequence[ImageInput]) -> ImageInput:
    """What a chain takes, of what each backbone takes: what the first one takes.

    What gives images takes any size: then it is as large, and cut out, as the first one wants it that gives none.
    """
    sizing = next((size for spec, size in zip(specs, inputs, strict=True) if not gives_images(spec)), inputs[0])
    return replace(sizing, mean=inputs[0].mean, std=inputs[0].std) if gives_images(specs[0]) else inputs[0]


def fits(source: StageSpec, target: StageSpec) -> bool:
    """Whether maps of one kind can stand for maps of another: as large, and laid out as maps are."""
    return source.stride == target.stride and source.layout in _LAYOUTS and target.layout in _LAYOUTS


def _check(joint: Joint, begins: int, before: BackboneEntry, after: BackboneEntry) -> None:
    """Raises UsageError where two backbones cannot join there, the first beginning with its stage `begins`."""
    # Images are handed on by the end of what gives images and by nothing else.
    earliest = 0 if gives_images(before.spec) and joint.stop == len(before.spec.stages) else 1
    for entry, number, lowest, highest in (
        (before, joint.stop, begins + 1, len(before.spec.stages)),
        (after, joint.start, earliest, len(after.spec.stages) - 1),
    ):
        if not lowest <= number <= highest:
            raise UsageError(f"stage {number} of {entry.id} in a chain: must be {lowest} to {highest}")
    source, target = before.spec.stages[joint.stop - 1], taken(after.spec, joint.start)
    if not fits(source, target):
        raise UsageError(
            f"{before.id}[:{joint.stop}] gives {_words(source)}, {after.id}[{joint.start}:] takes {_words(target)}; "
            "join them where strides are equal, at maps"
        )


def _words(stage: StageSpec) -> str:
    return f"{'tokens' if stage.layout == 'NTC' else 'maps'} of stride {stage.stride}"
