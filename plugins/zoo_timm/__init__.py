"""Every model of timm, by name: `timm/resnet18`, `timm/vit_tiny_patch16_224.augreg_in21k`, `timm/hf-hub:OWNER/NAME`."""

from __future__ import annotations

from importlib.util import find_spec

from zoo.errors import MissingExtraError
from zoo.hookspecs import hookimpl
from zoo.specs import BackboneSpec


@hookimpl
def zoo_resolve_backbone(plugin: str, name: str) -> BackboneSpec | None:
    """The timm model of this name, its stages found from how it runs."""
    if plugin != "timm":
        return None
    if find_spec("timm") is None:
        raise MissingExtraError(f"timm is not installed: timm/{name} needs it; pip install 'zoo[timm]'")
    from zoo_timm import _facts

    return _facts.resolve(name)
