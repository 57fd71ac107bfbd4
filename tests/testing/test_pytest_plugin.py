"""`pytest --zoo-contract` as a plugin's author runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HONEST = """
from dataclasses import replace
import zoo_heads as heads
import zoo_tiny as tiny
from zoo.hookspecs import hookimpl

@hookimpl
def zoo_backbones():
    return [replace(spec, weights=()) for spec in tiny.zoo_backbones()[:1]]

@hookimpl
def zoo_heads():
    return heads.zoo_heads()[:1]
"""
LIAR = "import torch\n" + HONEST.replace("weights=()", "weights=(), num_features=113")


def _pytest(folder: Path, site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--zoo-contract", *options]
    environ = {**os.environ, "PYTHONPATH": str(site), "ZOO_PLUGINS": "tiny"}  # which is no business of the contract
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environ)


def test_the_contract_is_a_test_of_each_thing_that_a_plugin_brings(
    make_plugin: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "authors"
    folder.mkdir()
    (folder / "test_own.py").write_text("def test_own(): pass\n")
    site = make_plugin("honest", HONEST)
    done = _pytest(folder, site)
    assert (done.returncode, "4 passed" in done.stdout) == (0, True), done.stdout  # its own test, and three

    make_plugin("liar", LIAR)
    done = _pytest(folder, site, "--zoo-plugin", "liar", "-vv")
    assert done.returncode == 1, done.stdout
    assert "liar::glyphnet (backbone) FAILED" in done.stdout
    assert "liar::linear (head) PASSED" in done.stdout
    assert "num_features: 113 declared, pool gives (3, 112)" in done.stdout
    assert "zoo_liar: loading it imports torch, for which every command would wait; import inside" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_name_that_is_not_installed_is_told(make_plugin: Callable[..., Path], tmp_path: Path) -> None:
    done = _pytest(tmp_path, make_plugin("honest", HONEST), "--zoo-plugin", "honset")
    assert done.returncode == 4
    assert "--zoo-plugin honset: not installed; there are heads, honest, " in done.stderr


def test_nothing_heavy_is_imported_without_the_option() -> None:
    code = "import sys, zoo.testing.pytest_plugin; print([n for n in ('torch', 'numpy', 'pluggy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "numpy" not in done.stdout
