"""The hooks a plugin module may implement. Entry-point group `zoo`; the value is a module.

A plugin is a module with functions of these names marked `@zoo.hookspecs.hookimpl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pluggy

from zoo.specs import BackboneSpec, HeadSpec

PROJECT = "zoo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_backbones() -> Iterable[BackboneSpec]:  # type: ignore[empty-body]
    """The backbones this plugin brings."""


@hookspec
def zoo_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """The task heads this plugin brings."""


@hookspec(firstresult=True)
def zoo_resolve_backbone(plugin: str, name: str) -> BackboneSpec | None:
    """A backbone of a family too large to list; None where `plugin` or `name` is not this plugin's."""


@hookspec
def zoo_run_event(run: Path, event: str, values: Mapping[str, float]) -> None:
    """Told of each `evaluation` of a run, and when it is `done`; for trackers. Errors are logged, never fatal."""
