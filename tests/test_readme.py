"""What the README says is so: its tables are generated, its commands run, its plugin passes the contract."""

from __future__ import annotations

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

TOUR = "A tour on your own images"
FILES = "Exported files"
TEXT = README.read_text(encoding="utf-8")


def _blocks(language: str, chapter: str) -> list[str]:
    text = TEXT.partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_tables_are_up_to_date() -> None:
    assert with_tables(TEXT) == TEXT, "run `python tests/readme_tables.py`"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (README.parent / target).exists(), target


@pytest.mark.slow
def test_the_tour(shared: Path, tmp_path: Path, zoo: Callable[..., Any], cache: Path) -> None:
    pytest.importorskip("tritonclient.http")
    # So few images that the tour takes no longer than it must, and enough for some to be validation images.
    photos = make_folder(tmp_path / "photos", 10, 4)
    for split in ("train", "test"):
        for shape, flower in zip(("bars", "dots", "rings"), ("daisy", "rose", "tulip"), strict=True):
            (photos / split / shape).rename(photos / split / flower)
    commands = [line.removeprefix("$ zoo ").split() for line in "".join(_blocks("console", TOUR)).splitlines()]
    assert [words[0] for words in commands] == [
        *(
            "data",
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
            "bench",
            "bench",
            "serve",
        )
    ]
    exports = [line.removeprefix("$ zoo ").split() for line in "".join(_blocks("console", FILES)).splitlines()]
    assert [words[0] for words in exports] == ["export", "export", "finetune", "export", "predict", "evaluate"]
    make_folder(tmp_path / "condition", 10, 4)
    weights = ("--weights", real_weights(shared, "mobilenet_v2"))  # there may be no network to fetch them from
    for words in [*commands[:-1], *exports]:
        done = zoo(*words, *(weights if words[0] == "finetune" else ()))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    client = next(block for block in _blocks("python", TOUR) if "tritonclient" in block)
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
        for line in "".join(_blocks("console", "Serving")).replace("8000", port).splitlines():
            measured = zoo(*line.removeprefix("$ zoo ").replace("--seconds 10", "").split(), "--seconds", "1")
            assert measured.returncode == 0, line + measured.stderr
        server.send_signal(signal.SIGINT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0\.\d+:\d:(daisy|rose|tulip)", done.stdout)


def test_the_recommendation_chapter(tmp_path: Path, zoo: Callable[..., Any]) -> None:
    make_folder(tmp_path / "photos", 6, 4)
    for line in "".join(_blocks("console", "Recommendation")).splitlines():
        done = zoo(*line.removeprefix("$ zoo ").split())
        assert done.returncode == 0, line + done.stderr
    assert "results.json: 1 results" in done.stdout
    learnt = zoo("--registry", "results.json", "recommend", "photos", "--max-size", "1")
    assert learnt.returncode == 0, learnt.stderr


@pytest.mark.slow
def test_the_cascade_chapter(shared: Path, tmp_path: Path, zoo: Callable[..., Any]) -> None:
    for name in ("photos", "species", "genera"):
        make_folder(tmp_path / name, 12, 4)
    for split in ("train", "test"):
        rings = tmp_path / "genera" / split / "rings"
        for file in rings.iterdir():
            file.rename(rings.parent / "dots" / f"rings-{file.name}")
        rings.rmdir()
    for line in "".join(_blocks("console", "Cascades")).splitlines():
        # There may be no network to fetch them from.
        names = re.findall(r"--backbone (\S+)/(\w+)", line)
        files = [
            word
            for plugin, name in names
            for word in ("--weights", real_weights(shared, name) if plugin == "torchvision" else "leaves_v1")
            if "torchvision" in line
        ]
        # One epoch, so that it takes no longer than it must.
        short = ("--epochs", "1") if line.endswith("--cascade chain") else ()
        done = zoo(*line.removeprefix("$ zoo ").split(), *files, *short)
        assert done.returncode == 0, line + done.stderr
    assert re.search(r"gate\.onnx, .*: 0: tiny/glyphnet .* ms, 1: tiny/glyphnet .* ms", done.stdout)


@pytest.mark.slow
def test_the_plugin_chapter(make_environment: Callable[..., Any], tmp_path: Path) -> None:
    """Its files are written, and its commands run, in an environment of its own."""
    package = tmp_path / "zoo-mine"
    for block in _blocks("toml", "Plugins") + _blocks("python", "Plugins"):
        path = package / block.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    make_folder(package / "photos", 6, 4)
    # What is behind the environment is what pip would fetch.
    fresh = make_environment(PIP_NO_DEPS="1", PIP_NO_BUILD_ISOLATION="0")
    said = {}
    for line in "".join(_blocks("console", "Plugins")).splitlines():
        program, *words = line.removeprefix("$ ").split()
        done = fresh(*(words if program == "zoo" else ("-m", program, *words)), cwd=package)
        assert done.returncode == 0, line + done.stdout + done.stderr
        said[line] = done.stdout
    assert re.search(r"ok +mine +zoo-mine 1\.0 +1 backbones", said["$ zoo plugins list"])
    assert (
        said["$ zoo plugins check mine --deep"]
        == "mine: 1 backbones, 0 heads and 0 pretrained sets at hand do what they say\n"
    )
    assert "1 passed" in said["$ pytest"]
    assert "3 passed" in said["$ pytest --zoo-contract"]


def test_the_deploy_chapter(model: Path, tmp_path: Path, zoo: Callable[..., Any]) -> None:
    (tmp_path / "photos.onnx").symlink_to(model)
    for line in "".join(_blocks("console", "Deploy")).splitlines():
        for wheel in re.findall(r"--zoo (\S+)", line):
            (tmp_path / wheel).parent.mkdir(exist_ok=True)
            (tmp_path / wheel).touch()
        done = zoo(*line.removeprefix("$ zoo ").split())
        assert done.returncode == 0, line + done.stderr
        assert "next: " in done.stdout
