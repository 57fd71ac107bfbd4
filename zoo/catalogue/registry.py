"""registry.json: the published catalogue of backbones and plugins, written by a command, checked by a schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.plugins import Plugin
from zoo.specs import BackboneSpec, WeightsSpec

SCHEMA = 1
_MEASURED = ("measured_on", "results", "sources")
_BLANK = " \t\r\n"


def registry_schema() -> dict[str, Any]:
    """The JSON schema of registry.json."""
    value: dict[str, Any] = json.loads((files("zoo.catalogue") / "registry.schema.json").read_text("utf-8"))
    return value


@cache
def packaged_registry() -> dict[str, Any]:
    """The registry that came with Zoo, validated. Raises ZooError naming the place that does not fit."""
    packaged = Path(str(files("zoo"))) / "registry.json"
    path = packaged if packaged.is_file() else packaged.parent.parent / "registry.json"
    return read_registry(path)


def read_registry(path: Path, name: str | None = None) -> dict[str, Any]:
    """The registry in a file, called `name` where that is a copy.

    Raises ZooError where it cannot be read or does not fit the schema, naming the line and the reason.
    """
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
        value: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        raise ZooError(f"cannot read the registry: {name} ({error}); give another file") from None
    validate(value, name, text)
    return value


def validate(value: object, name: str, text: str | None = None) -> None:
    """Raises ZooError where `value` does not fit the schema, naming the place, its line in `text`, and the reason."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(registry_schema()).iter_errors(value):
        line = f", line {_line(text, list(error.absolute_path))}" if text is not None else ""
        raise ZooError(f"registry does not fit its schema: {name}{line}, {error.json_path}: {error.message}")


def declared_weights(registry: dict[str, Any]) -> dict[str, list[WeightsSpec]]:
    """The pretrained weights a registry declares, by the id of their backbone."""
    return {
        entry["id"]: [WeightsSpec.from_json(facts) for facts in entry["weights"]] for entry in registry["backbones"]
    }


def build_registry(plugins: Sequence[Plugin], distribution: str) -> dict[str, Any]:
    """The registry of all that `distribution` brings, as its installed plugins declare it."""
    ours = [plugin for plugin in plugins if plugin.distribution == distribution and plugin.status == "ok"]
    return {
        "schema": SCHEMA,
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "summary": plugin.summary,
                "backbones": len(plugin.backbones),
                "heads": [head.name for head in plugin.heads],
            }
            for plugin in ours
        ],
        "backbones": [_backbone(plugin, spec) for plugin in ours for spec in plugin.backbones],
    }


def keep_measurements(registry: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """`registry` with what was measured of the same backbones in the one `before` it."""
    measured = {
        (entry["id"], entry["macs"]): entry["latency_ms"] for entry in before["backbones"] if "latency_ms" in entry
    }
    backbones = [
        {**entry, "latency_ms": measured[key]} if (key := (entry["id"], entry["macs"])) in measured else entry
        for entry in registry["backbones"]
    ]
    return {**registry, "backbones": backbones, **{key: before[key] for key in _MEASURED if key in before}}


def _backbone(plugin: Plugin, spec: BackboneSpec) -> dict[str, Any]:
    return {
        "id": f"{plugin.name}/{spec.name}",
        "distribution": plugin.distribution,
        "family": spec.family,
        "num_features": spec.num_features,
        "params": spec.params,
        "macs": spec.macs,
        "stages": [stage.to_json() for stage in spec.stages],
        "weights": [_weights(weights) for weights in spec.weights],
    }


def _weights(spec: WeightsSpec) -> dict[str, Any]:
    # Through JSON, so that what is built equals what is read back (tuples become lists).
    value: dict[str, Any] = json.loads(json.dumps({**asdict(spec), "metrics": dict(spec.metrics)}))
    if spec.file_name is None:
        del value["file_name"]
    return value


def _line(text: str, path: Sequence[str | int]) -> int:
    """The line of JSON `text` where the value at `path` begins."""
    position = _skip(text, 0)
    for step in path:
        position = _enter(text, position, step)
    return text.count("\n", 0, position) + 1


def _enter(text: str, position: int, step: str | int) -> int:
    """Where the value of a key or the item of a number begins, in the object or list that begins at `position`."""
    decoder, number = json.JSONDecoder(), 0
    position = _skip(text, position + 1)
    while True:
        key: str | int = number
        if isinstance(step, str):
            key, position = scanstring(text, position + 1)
            position = _skip(text, _skip(text, position) + 1)  # over the colon
        if key == step:
            return position
        _, position = decoder.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # over the comma
        number += 1


def _skip(text: str, position: int) -> int:
    while text[position] in _BLANK:
        position += 1
    return position
