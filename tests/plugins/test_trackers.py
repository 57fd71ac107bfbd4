"""TensorBoard and MLflow, the real ones, hold what the run's own files say, after a kill -9 too."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo_mlflow
import zoo_tensorboard

from zoo.artifacts.runs import RunFolder
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.run import Environment, finetune
from zoo.progress import Silent

Points = dict[str, list[tuple[int, float]]]

NEEDS = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs `pip install 'zoo[{name}]'`")
    for name in ("tensorboard", "mlflow")
}
TRACKERS = [pytest.param(name, marks=mark) for name, mark in NEEDS.items()]
HOOKS = {"tensorboard": zoo_tensorboard.zoo_run_event, "mlflow": zoo_mlflow.zoo_run_event}
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

# Called after the trackers, by its name: they have heard of an evaluation that the checkpoint does not know.
KILLER = f"""
import os
from zoo.hookspecs import hookimpl

@hookimpl
def zoo_run_event(run, event, values):
    if values["step"] >= 8:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where MLflow writes to; processes inherit it."""
    store = tmp_path / "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.as_uri())
    # Files need no packages beyond MLflow's smallest distribution.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return store


def _request(dataset: Path, **options: Any) -> FinetuneRequest:
    return FinetuneRequest(data=str(dataset), backbone="tiny/glyphnet", device="cpu", threads=1, **options)


def _three_epochs(dataset: Path) -> FinetuneRequest:
    return _request(dataset, strategy="full", epochs=3, batch_size=8, patience=0, lr=0.001)


def _mlflow_runs() -> dict[str, Any]:
    """All runs there are, by name."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("zoo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)
    return runs


def _read(tracker: str, run: Path) -> Points:
    if tracker == "mlflow":
        from mlflow import MlflowClient

        found = _mlflow_runs()[run.name]
        return {
            name: [(metric.step, metric.value) for metric in MlflowClient().get_metric_history(found.info.run_id, name)]
            for name in found.data.metrics
        }
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def _expected(run: Path) -> Points:
    """What `metrics.jsonl` and `result.json` say."""
    points: Points = {}
    for row in RunFolder(run).read_metrics():
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                points.setdefault(name, []).append((row["step"], pytest.approx(float(value))))
    result = RunFolder(run).read("result")
    for name, value in result.items():
        if name != "schema" and isinstance(value, int | float):
            points[f"result/{name}"] = [(result["steps"], pytest.approx(float(value)))]
    return points


def test_they_are_admitted_with_or_without_their_packages(environment: Environment) -> None:
    assert {plugin.name for plugin in environment.catalogue.plugins if plugin.follows_runs} == {*HOOKS}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_is_tracked(tracker: str, dataset: Path, environment: Environment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(_three_epochs(dataset), run, environment, Silent())
    points = _read(tracker, run)
    assert points == _expected(run)
    assert [step for step, _ in points["val_loss"]] == [0, 4, 8, 12]
    if tracker == "mlflow":
        found = _mlflow_runs()["run"]
        assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
        said = {"backbone": "tiny/glyphnet", "weights": "glyphs_v1", "strategy": "full", "seed": "0", "lr": "0.001"}
        assert said.items() <= found.data.params.items()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_search_ends_as_its_best_trial(tracker: str, dataset: Path, environment: Environment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(_request(dataset, strategy="full", epochs=1, trials=2), run, environment, Silent())
    points = _read(tracker, run)
    assert points == _expected(run)
    assert {"val_loss", "result/test_accuracy", "result/best_trial"} <= points.keys()


@NEEDS["mlflow"]
def test_runs_within_a_run_are_named_after_it(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"strategy": "full", "epochs": 1, "trials": 1, "compare_scratch": True}
    finetune(_request(dataset, **options), Path("photos"), environment, Silent())
    finetune(_request(dataset, strategy="scratch", epochs=1), Path("scratch"), environment, Silent())
    assert _mlflow_runs().keys() == {"photos", "photos/trials/001", "photos/scratch", "scratch"}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_probe_has_only_a_result(tracker: str, dataset: Path, environment: Environment, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(_request(dataset, strategy="probe"), run, environment, Silent())
    points = _read(tracker, run)
    assert points == _expected(run)
    assert {"result/val_accuracy", "result/test_accuracy"} <= points.keys()


@NEEDS["tensorboard"]
@NEEDS["mlflow"]
def test_killed_and_resumed_has_each_point_once(
    dataset: Path, tmp_path: Path, make_plugin: Callable[..., Path], zoo_process: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    site = make_plugin("zz_killer", KILLER)
    killed = zoo_process(
        *("finetune", dataset, "--backbone", "tiny/glyphnet", "--strategy", "full", "--epochs", 3, "--batch-size", 8),
        *("--patience", 0, "--device", "cpu", "--threads", 1, "--checkpoint-seconds", 0, "--out", run),
        PYTHONPATH=str(site),
    )
    assert killed.returncode == -signal.SIGKILL
    for tracker in HOOKS:
        assert [step for step, _ in _read(tracker, run)["val_loss"]] == [0, 4, 8]
    resumed = zoo_process("finetune", "--resume", "--out", run, "--json", "--quiet")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    json.loads(resumed.stdout)
    for tracker in HOOKS:
        assert _read(tracker, run) == _expected(run)


def _short_run(path: Path, steps: tuple[int, ...]) -> RunFolder:
    run = RunFolder.create(path)
    run.write("request", {"request": {"seed": 0}, "model": {"head_options": {}}})
    for step in steps:
        run.append_metrics({"step": step, "val_loss": 1.0, "train_loss": None})
    return run


def _evaluate(tracker: str, run: RunFolder, step: int) -> None:
    run.append_metrics({"step": step, "val_loss": 1.0})
    HOOKS[tracker](run=run.path, event="evaluation", values={"step": step, "val_loss": 1.0})


@pytest.mark.parametrize("tracker", TRACKERS)
def test_what_was_missed_is_made_good_and_what_is_told_again_stays_single(tracker: str, tmp_path: Path) -> None:
    run = _short_run(tmp_path / "run", (0, 4))  # as if the tracker was installed only now
    for step in (8, 12):
        _evaluate(tracker, run, step)
    run.truncate_metrics(4)  # back to a checkpoint within one process
    for step in (8, 12, 16):
        _evaluate(tracker, run, step)
    HOOKS[tracker](run=run.path, event="done", values={"steps": 16})
    assert [step for step, _ in _read(tracker, run.path)["val_loss"]] == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("a folder of that name", None)])
def test_nothing_happens_without_the_package(
    tracker: str, spec: Any, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _short_run(tmp_path / "run", ())
    before = set(run.path.iterdir())
    monkeypatch.setattr({"tensorboard": zoo_tensorboard, "mlflow": zoo_mlflow}[tracker], "find_spec", lambda name: spec)
    _evaluate(tracker, run, 0)
    assert set(run.path.iterdir()) == {*before, run.path / "metrics.jsonl"}
    assert not store.exists()


def test_mlflow_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    _evaluate("mlflow", _short_run(tmp_path / "run", ()), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "mlflow.json").exists()


@NEEDS["mlflow"]
def test_training_waits_twice_for_a_server_that_is_away(
    dataset: Path,
    environment: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "zoo.finetune.events"):
        finetune(_three_epochs(dataset), run, environment, Silent())
    assert RunFolder(run).is_complete
    said = [record.getMessage() for record in caplog.records if record.name == "zoo.finetune.events"]
    assert [line.partition(": ")[0] for line in said] == [
        f"plugin mlflow failed at event {event}" for event in ("evaluation", "done")
    ]
    assert all("\n" not in line for line in said)


@NEEDS["mlflow"]
def test_a_server_that_comes_back_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    run = _short_run(tmp_path / "run", ())
    with monkeypatch.context() as away:
        for name, value in AWAY.items():
            away.setenv(name, value)
        with pytest.raises(MlflowException):
            _evaluate("mlflow", run, 0)
        _evaluate("mlflow", run, 4)
    HOOKS["mlflow"](run=run.path, event="done", values={"steps": 4})
    assert [step for step, _ in _read("mlflow", run.path)["val_loss"]] == [0, 4]
