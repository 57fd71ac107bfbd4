"""Tuned settings beside a model: used where they were measured, ignored elsewhere, refused where damaged."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from helpers import draw
from PIL import Image

from zoo.errors import ModelError
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel
from zoo.runtime.settings import SessionSettings
from zoo.runtime.tuned import Tuned, circumstances, find_settings, remove_tuned, tuned_path, write_tuned
from zoo.serve.repository import Place
from zoo.serve.request import ServeRequest
from zoo.serve.run import load_model

Zoo = Callable[..., subprocess.CompletedProcess[str]]

FOUND = SessionSettings(threads=1, spinning=False)


class Said(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


def _write(model: Path, other: Mapping[str, str] | None = None) -> Path:
    there = {**circumstances(model, "cpu"), **(other or {})}
    return write_tuned(model, Tuned(settings=FOUND, belongs_to=there, goal="latency", batch=1, gain=1.5))


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy that settings may be put beside."""
    return shutil.copy(model, tmp_path / "own.onnx")


def test_used_unless_threads_are_asked_for(own_model: Path) -> None:
    assert OnnxModel(own_model, device="cpu").settings == SessionSettings.default()
    assert _write(own_model).name == "own.tuned.json"
    options = OnnxModel(own_model, device="cpu").session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert OnnxModel(own_model, device="cpu", threads=2).settings == SessionSettings(threads=2)


@pytest.mark.parametrize("name", ["model", "provider", "processor", "available threads", "ONNX Runtime"])
def test_ignored_with_words_where_it_belongs_elsewhere(name: str, own_model: Path) -> None:
    _write(own_model, {name: "another"})
    said = Said()
    assert find_settings(own_model, "cpu", said) == SessionSettings.default()
    [message] = said.messages
    assert f"measured with another {name}" in message


def test_the_command_line_says_so(own_model: Path, zoo: Zoo, tmp_path: Path) -> None:
    Image.fromarray(draw("rings", 0)).save(tmp_path / "image.png")
    _write(own_model, {"processor": "another"})
    done = zoo("predict", own_model, tmp_path / "image.png", "--device", "cpu", "--json")
    assert done.returncode == 0
    assert "tuned settings not used" in done.stderr


def test_one_flipped_bit_is_refused(own_model: Path, zoo: Zoo, tmp_path: Path) -> None:
    path = _write(own_model)
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"own\.tuned\.json"):
            load_model(Place("own", 1, own_model), ServeRequest(models=(own_model,), device="cpu"))
    Image.fromarray(draw("rings", 0)).save(tmp_path / "image.png")
    done = zoo("predict", own_model, tmp_path / "image.png", "--device", "cpu")
    assert done.returncode == ModelError.exit_code
    assert len(done.stderr.splitlines()) == 1


def test_nothing_of_others_is_touched(own_model: Path) -> None:
    theirs = tuned_path(own_model)
    theirs.write_text('{"threads": 3}\n')
    for change in (_write, remove_tuned):
        with pytest.raises(ModelError, match="not what `zoo bench --tune` wrote"):
            change(own_model)
    assert theirs.read_text() == '{"threads": 3}\n'


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_where_nothing_can_be_written(own_model: Path) -> None:
    there = Tuned(settings=FOUND, belongs_to=circumstances(own_model, "cpu"), goal="latency", batch=1, gain=1.5)
    # Not even root may write into /proc.
    with pytest.raises(ModelError, match="cannot write the tuned settings: /proc/self/own"):
        write_tuned(Path("/proc/self/own.onnx"), there)
