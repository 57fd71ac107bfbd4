"""What commands print is what there is to say, whatever the names, the encoding and the reader at the other end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import SHAPES, draw, make_folder
from PIL import Image
from zoo_cli import render

from zoo.artifacts.runs import RunFolder
from zoo.errors import RunError
from zoo.export.run import export
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.predict import predict
from zoo.progress import Silent, Task

Zoo = Callable[..., subprocess.CompletedProcess[str]]

NAMES = {"bars": "cat [old]", "dots": "[/y] :cat:", "rings": "猫"}
"""Rich markup, an end tag of nothing, an emoji's code, a letter that Western encodings lack."""


@pytest.fixture(scope="module")
def named(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with difficult class names, and a model that knows them."""
    folder = tmp_path_factory.mktemp("named")
    data = make_folder(folder / "data", 4, 1)
    # In a csv, since a slash cannot be in the name of a folder.
    rows = [
        f"{path.relative_to(data).as_posix()},{NAMES[shape]},{split}"
        for shape in SHAPES
        for split in ("train", "test")
        for path in sorted((data / split / shape).iterdir())
    ]
    (data / "list.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    source = str(data / "list.csv")
    request = FinetuneRequest(data=source, backbone="tiny/glyphnet", strategy="probe", device="cpu", threads=1)
    finetune(request, folder / "run", environment, Silent())
    export(folder / "run", folder / "m.onnx", catalogue=environment.catalogue, progress=Silent())
    return data / "list.csv", folder / "m.onnx"


def test_names_are_printed_as_they_are(named: tuple[Path, Path], zoo: Zoo, tmp_path: Path) -> None:
    data, model = named
    image = tmp_path / "photo[copy] :cat:.png"
    Image.fromarray(draw("bars", 0)).save(image)
    predicted = zoo("predict", model, image)
    assert predicted.returncode == 0, predicted.stderr
    for name in (image.name, *NAMES.values()):
        assert name in predicted.stdout
    measured = zoo("evaluate", model, data)
    assert measured.returncode == 0, measured.stderr
    for name in NAMES.values():
        assert name in measured.stdout


def test_a_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with render.Progress().task("reading [/y] [old]", 2) as task:
        assert isinstance(task, render._BarTask)
        monkeypatch.setattr(render, "_QUIET_SECONDS", -1.0)
        task.advance(1, "note [/y] [old]")
    shown = capsys.readouterr().err
    assert "reading [/y] [old]" in shown
    assert "note [/y] [old]" in shown


def test_letters_that_the_encoding_lacks(named: tuple[Path, Path], zoo_process: Zoo) -> None:
    data, model = named
    words = zoo_process("evaluate", model, data, PYTHONIOENCODING="cp1252")
    assert (words.returncode, words.stderr) == (0, "")
    assert "cat [old]" in words.stdout
    assert r"\u732b" in words.stdout
    result = zoo_process("evaluate", model, data, "--json", PYTHONIOENCODING="cp1252")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["per_class"].keys() == {*NAMES.values()}


@pytest.mark.parametrize("arguments", ["list backbones", "list backbones --json", "registry write"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(arguments: str, unbuffered: str, tmp_path: Path) -> None:
    """As in `zoo list backbones | head -1`; a short result leaves a buffer only when the program ends."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "zoo_cli", *arguments.split()]
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_commands_to_copy_are_quoted(run: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("export", run, "-o", "my model.onnx")
    assert "zoo predict 'my model.onnx' IMAGE   zoo bench 'my model.onnx'   zoo serve 'my model.onnx'" in done.stdout
    cut_off = tmp_path / "my run"
    RunFolder.create(cut_off)
    with pytest.raises(RunError, match=f"finish it with `zoo finetune --resume --out '{cut_off}'`"):
        RunFolder.open_complete(cut_off)


def test_what_a_resumed_run_has_done_before_tells_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(render.time, "monotonic", lambda: now)
    with render.Progress().task("training", 1000) as task:
        task.advance(900)
        now += 20
        task.advance(10, "loss 0.21")
        now += 1
        task.advance(1)
    with render.Progress().task("one long step", 3) as task:
        now += 20
        task.advance()
    assert capsys.readouterr().err == "training: 910/1000, 180 s left, loss 0.21\none long step: 1/3\n"


def test_a_quickstart_ends_as_the_command_that_failed_in_it(zoo_process: Zoo) -> None:
    done = zoo_process("quickstart", "--quiet", ZOO_PLUGINS="")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("error: plugin 'tiny' of 'tiny/glyphnet' cannot be used")
    value = json.loads(zoo_process("quickstart", "--quiet", "--json", ZOO_PLUGINS="").stdout)
    assert value == {"error": done.stderr.strip().removeprefix("error: "), "exit_code": 5}


def test_many_images_are_not_in_memory_at_once(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "large.png"
    Image.new("RGB", (600, 600)).save(image)
    reported: list[float] = []

    class Watching(Silent):
        @contextmanager
        def task(self, description: str, total: float) -> Iterator[Task]:
            assert (description, total) == ("predicting", 60)
            yield self

        def advance(self, steps: float = 1, note: str | None = None) -> None:
            reported.append(steps)

    tracemalloc.start()
    try:
        answers = predict(model, [image] * 60, device="cpu", threads=1, progress=Watching())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len({answer["label"] for answer in answers}) == 1
    assert len(answers) == sum(reported) == 60
    assert len(reported) > 3
    assert peak < 60 * 600 * 600 * 3 / 2
