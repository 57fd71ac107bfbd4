"""Which backbones are fast enough, and which a task's heads can stand on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zoo.catalogue import Catalogue
from zoo.catalogue.registry import build_registry, keep_measurements, packaged_registry
from zoo.errors import UsageError
from zoo.finetune.resolve import Environment
from zoo.specs import StageSpec

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _listed(zoo: Zoo, *words: str) -> dict[str, float | None]:
    done = zoo("list", "backbones", *words, "--json")
    assert done.returncode == 0, done.stderr
    return {row["backbone"]: row["latency_ms"] for row in json.loads(done.stdout)}


def test_the_packaged_registry_knows_every_backbone(zoo: Zoo) -> None:
    every = _listed(zoo)
    assert None not in every.values()
    assert packaged_registry()["measured_on"]
    limit = sorted(every.values(), key=lambda ms: ms or 0)[3]
    assert {name for name, ms in every.items() if ms is not None and ms <= (limit or 0)} == set(
        _listed(zoo, "--max-latency", str(limit))
    )
    assert len(_listed(zoo, "--max-latency", str(limit))) == 4


def test_what_was_not_measured_is_left_out_and_named(
    zoo: Zoo, tmp_path: Path, make_plugin: Callable[..., Path]
) -> None:
    source = "import zoo_tiny\nfrom zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_backbones():\n"
    make_plugin("mine", source + "    return zoo_tiny.zoo_backbones()\n")
    from zoo_cli import settings

    settings.plugins.cache_clear()
    settings.catalogue.cache_clear()
    try:
        done = zoo("list", "backbones", "glyphnet", "--max-latency", "1000")
    finally:
        settings.plugins.cache_clear()
        settings.catalogue.cache_clear()
    assert "not measured, and left out: mine/glyphnet" in done.stderr
    assert "tiny/glyphnet" in done.stdout
    assert "mine/glyphnet" not in done.stdout


def test_measuring_writes_it_down_and_writing_keeps_it(zoo: Zoo, tmp_path: Path, environment: Environment) -> None:
    tiny = build_registry(environment.catalogue.plugins, "zoo")
    tiny["backbones"] = [entry for entry in tiny["backbones"] if entry["id"] == "tiny/glyphnet"]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(tiny))
    done = zoo("registry", "measure", path, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["tiny/glyphnet"]
    assert 0 < measured < 1000
    found = json.loads(path.read_text())
    assert found["backbones"][0]["latency_ms"] == measured
    assert keep_measurements(tiny, found) == found
    # Another network under the same name was not measured.
    other = {**tiny, "backbones": [{**tiny["backbones"][0], "macs": 1}]}
    assert "latency_ms" not in keep_measurements(other, found)["backbones"][0]


def test_tasks(zoo: Zoo, environment: Environment) -> None:
    assert _listed(zoo, "--task", "classification") == _listed(zoo)
    done = zoo("list", "backbones", "--task", "clasification")
    assert (done.returncode, "did you mean 'classification'?" in done.stderr) == (2, True)
    assert zoo("list", "heads", "--task", "classification", "--json").stdout == zoo("list", "heads", "--json").stdout
    with pytest.raises(UsageError, match=r"no head for this task is installed: 'x'; known: none"):
        Catalogue([]).needs_of("x")


def test_what_heads_can_stand_on(environment: Environment) -> None:
    maps, _ = environment.catalogue.find_backbone("tiny/glyphnet")
    tokens = replace(maps, spec=replace(maps.spec, stages=(StageSpec(channels=8, stride=4, layout="NTC"),)))
    found = [[entry.gives(needs) for needs in ("embedding", "stages", "tokens")] for entry in (maps, tokens)]
    assert found == [[True, True, False], [True, False, True]]
