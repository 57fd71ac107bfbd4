"""registry.json: the published catalogue of backbones and plugins, written by a command, checked by a schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.plugins import Plugin
from zoo.specs import BackboneSpec, WeightsSpec

SCHEMA = 1


def registry_schema() -> dict[str, Any]:
    """The JSON schema of registry.json."""
    value: dict[str, Any] = json.loads((files("zoo.catalogue") / "registry.schema.json").read_text("utf-8"))
    return value


@cache
def read_registry() -> dict[str, Any]:
    """The registry that came with Zoo, validated. Raises ZooError naming the place that does not fit."""
    packaged = Path(str(files("zoo"))) / "registry.json"
    path = packaged if packaged.is_file() else packaged.parent.parent / "registry.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZooError(f"cannot read the registry: {path} ({error}); reinstall Zoo") from None
    validate(value, str(path))
    registry: dict[str, Any] = value
    return registry


def validate(value: object, name: str) -> None:
    """Raises ZooError where `value` does not fit the schema, naming the place and the reason."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(registry_schema()).iter_errors(value):
        raise ZooError(f"registry does not fit its schema: {name} at {error.json_path}: {error.message}")


def build_registry(plugins: Sequence[Plugin], distribution: str) -> dict[str, Any]:
    """The registry of all that `distribution` brings, as its installed plugins declare it."""
    ours = [plugin for plugin in plugins if plugin.distribution == distribution and plugin.status == "ok"]
    return {
        "schema": SCHEMA,
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "backbones": len(plugin.backbones),
                "heads": [head.name for head in plugin.heads],
            }
            for plugin in ours
        ],
        "backbones": [_backbone(plugin, spec) for plugin in ours for spec in plugin.backbones],
    }


def _backbone(plugin: Plugin, spec: BackboneSpec) -> dict[str, Any]:
    return {
        "id": f"{plugin.name}/{spec.name}",
        "distribution": plugin.distribution,
        "family": spec.family,
        "num_features": spec.num_features,
        "params": spec.params,
        "macs": spec.macs,
        "stages": [asdict(stage) for stage in spec.stages],
        "weights": [_weights(weights) for weights in spec.weights],
    }


def _weights(spec: WeightsSpec) -> dict[str, Any]:
    # Through JSON, so that what is built equals what is read back (tuples become lists).
    value: dict[str, Any] = json.loads(json.dumps({**asdict(spec), "metrics": dict(spec.metrics)}))
    return value
