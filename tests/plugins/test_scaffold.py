"""`zoo plugins new` writes a package that is true in every line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _run(folder: Path, site: Path, *words: object) -> str:
    command = [sys.executable, "-m", *map(str, words)]
    environ = {**os.environ, "PYTHONPATH": str(site), "ZOO_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_installs_passes_its_tests_and_trains_as_generated(zoo: Zoo, dataset: Path, tmp_path: Path) -> None:
    made = json.loads(zoo("plugins", "new", "my_net", "--json").stdout)
    package, site = tmp_path / made["path"], tmp_path / "installed"
    assert package.name == "zoo-my-net"
    pip = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    _run(tmp_path, site, "pip", "install", *pip, "--target", site, package)
    assert "passed" in _run(package, site, "pytest", "-q")
    assert "3 passed" in _run(package, site, "pytest", "-q", "--zoo-contract")  # its own test too
    rows = {row["name"]: row for row in json.loads(_run(tmp_path, site, "zoo_cli", "plugins", "list", "--json"))}
    assert (rows["my_net"]["status"], rows["my_net"]["distribution"]) == ("ok", "zoo-my-net")
    words = ("zoo_cli", "finetune", dataset, "--backbone", "my_net/my_net", "--strategy", "scratch", "--epochs", 1)
    result = json.loads(_run(tmp_path, site, *words, "--device", "cpu", "--json"))
    assert result["backbone"] == "my_net/my_net"
    exported = json.loads(_run(tmp_path, site, "zoo_cli", "export", result["run"], "-o", "m.onnx", "--json"))
    assert exported["parity"]["max_abs"] < 1e-4


def test_its_code_is_in_order(zoo: Zoo, tmp_path: Path) -> None:
    assert zoo("plugins", "new", "mynet").returncode == 0
    isolated = ["--isolated", "--no-cache", "--line-length", "120"]  # as a stranger's, not by the rules of Zoo's own
    for command in (["check", "--select", "E,F,W,I,UP,B"], ["format", "--check"]):
        package = tmp_path / "zoo-mynet"
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *isolated], cwd=package, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Net", "plugin name: 'My-Net'; lower case letters, digits and '_', beginning with a letter"),
        ("class", "plugin name: 'class'; lower case letters"),
        ("tiny", "plugin name: 'tiny'; a plugin of that name is installed, take another"),
        ("there", "folder exists: zoo-there; take another name or give --out"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, message: str, zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "zoo-there").mkdir()
    done = zoo("plugins", "new", name)
    assert done.returncode == 2
    assert message in done.stderr
    assert list((tmp_path / "zoo-there").iterdir()) == []
