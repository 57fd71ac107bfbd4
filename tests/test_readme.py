"""What the README says is so: its tables are generated, its commands run, its plugin passes the contract."""

from __future__ import annotations

import ast
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import make_folder, real_weights
from readme_tables import README, with_tables

TEXT = README.read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_tables_are_up_to_date() -> None:
    assert with_tables(TEXT) == TEXT, "run `python tests/readme_tables.py`"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (README.parent / target).exists(), target


@pytest.mark.slow
def test_the_tour(shared: Path, tmp_path: Path, zoo: Callable[..., Any], cache: Path) -> None:
    pytest.importorskip("tritonclient.http")
    # Six images a class, so that the tour takes no longer than it must.
    photos = make_folder(tmp_path / "photos", 6, 4)
    for split in ("train", "test"):
        for shape, flower in zip(("bars", "dots", "rings"), ("daisy", "rose", "tulip"), strict=True):
            (photos / split / shape).rename(photos / split / flower)
    commands = [line.removeprefix("$ zoo ").split() for line in "".join(_blocks("console")).splitlines()]
    assert [words[0] for words in commands] == [
        *(
            "list",
            "show",
            "finetune",
            "finetune",
            "evaluate",
            "report",
            "export",
            "predict",
            "evaluate",
            "bench",
            "serve",
        )
    ]
    weights = ("--weights", real_weights(shared, "mobilenet_v2"))  # there may be no network to fetch them from
    for words in commands[:-1]:
        done = zoo(*words, *(weights if words[0] == "finetune" else ()))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    client = next(block for block in _blocks("python") if "tritonclient" in block)
    with subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *commands[-1][:-1], port, "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZOO_CACHE": str(cache)},
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline()
        done = subprocess.run(
            [sys.executable, "-c", client.replace("8000", port)], cwd=tmp_path, capture_output=True, text=True
        )
        server.send_signal(signal.SIGINT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0\.\d+:\d:(daisy|rose|tulip)", done.stdout)


NET = """
from torch import nn


def _layer(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = _layer(3, 32), _layer(32, 64)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_the_plugin_passes_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.testing import check_backbone

    source = next(block for block in _blocks("python") if "zoo_backbones" in block)
    ast.parse(source)
    package = tmp_path / "zoo_mine"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    import zoo_mine  # type: ignore[import-not-found]

    assert [finding for spec in zoo_mine.zoo_backbones() for finding in check_backbone(spec, deep=True)] == []
