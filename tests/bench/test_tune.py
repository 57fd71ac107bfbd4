"""Settings are kept only where they were clearly faster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from zoo.bench.tune import CLEARLY, MOSTLY, Goal, tune
from zoo.errors import ModelError
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel
from zoo.runtime.settings import SessionSettings
from zoo.runtime.tuned import tuned_path

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy that settings may be put beside."""
    return shutil.copy(model, tmp_path / "own.onnx")


@pytest.mark.parametrize("budget", [0.01, 1.0])
def test_never_worse_than_the_defaults(budget: float, own_model: Path) -> None:
    found = tune(own_model, device="cpu", batch=1, goal="latency", budget=budget, progress=Silent())
    clearly = found["gain"] >= CLEARLY and found["rounds_won"] >= MOSTLY
    assert (found["file"] is not None) == clearly == tuned_path(own_model).exists()
    if budget < 0.1:
        assert (found["gain"], found["tried"]) == (1, 0)


@pytest.mark.parametrize(("goal", "budget"), [("latency", 8), pytest.param("throughput", 24, marks=pytest.mark.slow)])
def test_threads_in_each_others_way(
    goal: Goal, budget: float, own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 4 * (os.cpu_count() or 1)
    for module in ("settings", "tuned"):
        monkeypatch.setattr(f"zoo.runtime.{module}.available_threads", lambda: many)
    found = tune(own_model, device="cpu", batch=8, goal=goal, budget=budget, progress=Silent())
    assert found["gain"] > 1.2
    assert found["file"] == str(tuned_path(own_model))
    assert OnnxModel(own_model, device="cpu").settings == SessionSettings.from_json(found["best"])


def test_a_batch_that_the_model_does_not_take(tmp_path: Path, tensor_model: Path) -> None:
    proto = onnx.load(tensor_model)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "fixed.onnx"
    onnx.save(proto, path)
    with pytest.raises(ModelError, match="does not run at batch"):
        tune(path, device="cpu", batch=8, goal="latency", budget=1, progress=Silent())


def test_the_command(own_model: Path, zoo: Zoo) -> None:
    done = zoo("bench", own_model, "--tune", "--budget", "1", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["tuned"]
    assert (found["provider"], found["batch"], found["goal"]) == ("cpu", 1, "latency")
    tuned_path(own_model).write_text("mine")
    done = zoo("bench", own_model, "--tune", "--budget", "1")
    assert done.returncode == ModelError.exit_code
    assert tuned_path(own_model).read_text() == "mine"
