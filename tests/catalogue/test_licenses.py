"""Weights that may not be used for anything can be left out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def test_only_weights_of_a_licence(zoo: Zoo) -> None:
    def licenses(*words: str) -> set[str]:
        return {row["license"] for row in json.loads(zoo("list", "weights", *words, "--json").stdout)}

    assert "CC-BY-NC-4.0" in licenses()
    assert licenses("--license", "permissive") == {"BSD-3-Clause", "Apache-2.0"}
    assert licenses("--license", "CC-BY-NC-4.0") == {"CC-BY-NC-4.0"}
    assert licenses("--license", "unheard of") == set()


def test_backbones_are_listed_with_the_weights_that_are_left(zoo: Zoo) -> None:
    def found(*words: str) -> dict[str, list[str]]:
        return {
            row["backbone"]: row["weights"] for row in json.loads(zoo("list", "backbones", *words, "--json").stdout)
        }

    free, restricted = found("--license", "permissive"), found("--license", "CC-BY-NC-4.0")
    assert all(tags for tags in [*free.values(), *restricted.values()])
    assert restricted.keys() <= found().keys()
    assert not any(set(restricted[name]) & set(free.get(name, [])) for name in restricted)
