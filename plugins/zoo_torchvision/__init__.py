"""Backbones of torchvision with every pretrained set it publishes. The facts are torchvision's own, see `_generate`."""

from __future__ import annotations

import json
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from zoo.hookspecs import hookimpl
from zoo.specs import BackboneSpec, StageSpec, WeightsSpec

if TYPE_CHECKING:
    from torch import nn

    from zoo.nn.backbone import Backbone


@hookimpl
def zoo_backbones() -> list[BackboneSpec]:
    """One spec per entry of facts.json."""
    facts = json.loads((files(__name__) / "facts.json").read_text(encoding="utf-8"))
    return [_spec(entry) for entry in facts]


def _spec(entry: dict[str, Any]) -> BackboneSpec:
    name = entry["name"]
    weights = [WeightsSpec.from_json(facts) for facts in entry["weights"]]
    return BackboneSpec(
        name=name,
        family=entry["family"],
        num_features=entry["num_features"],
        params=entry["params"],
        macs=entry["macs"],
        build=partial(_build_module, name),
        split=partial(_split_module, name),
        stages=tuple(StageSpec(**stage) for stage in entry["stages"]),
        weights=tuple(weights),
        input=weights[0].input,
    )


def _build_module(name: str) -> nn.Module:
    from zoo_torchvision import _build

    return _build.build(name)


def _split_module(name: str, module: nn.Module) -> Backbone:
    from zoo_torchvision import _build

    return _build.split(name, module)
