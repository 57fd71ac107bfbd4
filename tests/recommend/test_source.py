"""What source data is like, written into a registry and found there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zoo.catalogue import Catalogue
from zoo.catalogue.registry import packaged_registry, read_registry
from zoo.finetune.resolve import Environment
from zoo.recommend.candidates import Candidate
from zoo.recommend.source import known_source

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _candidate(catalogue: Catalogue) -> Candidate:
    entry, _ = catalogue.find_backbone("tiny/glyphnet")
    return Candidate(entry, entry.spec.weights[0])


def test_measured_and_found(dataset: Path, zoo: Zoo, environment: Environment, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 1, "plugins": [], "backbones": []}))
    done = zoo("registry", "source", "tiny/glyphnet", dataset, "--registry", path, "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["weights"] == "tiny/glyphnet@glyphs_v1"
    assert read_registry(path)["sources"] == [row]
    candidate = _candidate(environment.catalogue)
    found = known_source(candidate, Catalogue(environment.catalogue.plugins, [read_registry(path)]))
    assert found is not None
    assert found.mean.tolist() == row["mean"]
    assert len(found.std) == candidate.entry.spec.num_features


def test_other_weights_of_the_same_name_are_unknown(environment: Environment) -> None:
    candidate = _candidate(environment.catalogue)
    assert known_source(candidate, environment.catalogue) is not None
    other = replace(candidate, weights=replace(candidate.weights, sha256="0" * 64))
    assert known_source(other, environment.catalogue) is None


@pytest.mark.parametrize("key", ["results", "sources"])
def test_writing_the_registry_again_keeps_what_was_measured(key: str, zoo: Zoo, tmp_path: Path) -> None:
    rows = {
        "results": [
            {"data": "x", "classes": 2, "train_images": 9, "backbone": "a/b@c", "strategy": "probe"}
            | {"test_accuracy": 0.5, "seconds": 1.0}
        ],
        "sources": packaged_registry()["sources"],
    }
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**packaged_registry(), key: rows[key]}))
    assert zoo("registry", "write", path).returncode == 0
    assert read_registry(path)[key] == rows[key]
