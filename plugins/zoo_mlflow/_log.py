"""The side that imports MLflow."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from zoo.artifacts.files import read_json, write_json
from zoo.artifacts.runs import RunFolder

_TAG = "zoo.run"
_LARGEST_BATCH = 1000  # metrics in one request, says MLflow


class _Log:
    """The run in MLflow that bears `tag`, made where there is none, with the parameters and all evaluations so far."""

    def __init__(self, run: Path, tag: str) -> None:
        self._client = MlflowClient()
        experiment = _experiment(self._client)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{tag}'")
        there = found[0] if found else self._client.create_run(experiment, run_name=_name(run), tags={_TAG: tag})
        self._id = there.info.run_id
        self._client.log_batch(self._id, params=_params(run))
        self._points = {
            (metric.key, metric.step)
            for name in there.data.metrics
            for metric in self._client.get_metric_history(self._id, name)
        }
        self.add(*RunFolder.open(run).read_metrics())

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Adds the points of evaluations. A resumed run tells some again, with the same values: they are left out."""
        self._write({(name, int(row["step"])): row[name] for row in rows for name in row if name != "step"})

    def finish(self, result: Mapping[str, float]) -> None:
        """Adds the numbers of the result and marks the run as finished."""
        self._write({(f"result/{name}", int(result["steps"])): value for name, value in result.items()})
        with redirect_stdout(io.StringIO()):  # MLflow prints an address, but stdout belongs to the caller
            self._client.set_terminated(self._id)

    def _write(self, points: Mapping[tuple[str, int], Any]) -> None:
        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, step)
            for (name, step), value in points.items()
            if (name, step) not in self._points and isinstance(value, int | float)
        ]
        for start in range(0, len(new), _LARGEST_BATCH):
            self._client.log_batch(self._id, metrics=new[start : start + _LARGEST_BATCH])
        self._points |= points.keys()


_logs: dict[str, _Log] = {}
"""By tag."""
_failed: set[str] = set()
"""Tags of runs whose last event did not reach MLflow."""


def write(run: Path, event: str, values: Mapping[str, float]) -> None:
    """Writes what `event` tells of `run`.

    MLflow tries a server that is away for minutes before it raises. Training waits for that twice, not at every
    evaluation: after an error only `done` tries again, and makes good what is missing.
    """
    tag = _tag(run)
    if tag in _failed and event != "done":
        return
    _failed.add(tag)
    log = _logs.pop(tag, None) or _Log(run, tag)
    if event == "done":
        log.finish(values)
    else:
        log.add(values)
        _logs[tag] = log
    _failed.remove(tag)


def _tag(run: Path) -> str:
    """What tells the run in MLflow from all others."""
    # On disk before MLflow hears of it: a crash in between makes no second run there.
    note = run / "mlflow.json"
    if not note.is_file():
        write_json(note, {_TAG: uuid4().hex})
    tag: str = read_json(note)[_TAG]
    return tag


def _name(run: Path) -> str:
    """The name of its folder, and of a run within a run the way to it, as in TensorBoard: `photos/trials/001`."""
    run = run.resolve()
    for around in run.parents[:2]:
        if (around / "request.json").is_file():
            return run.relative_to(around.parent).as_posix()
    return run.name


def _experiment(client: MlflowClient) -> str:
    """Its id; MLflow's client, unlike its global functions, does not look at these variables."""
    if chosen := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return chosen
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "zoo"
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _params(run: Path) -> list[Param]:
    """What was asked for and the model it came to, as far as it is words and numbers."""
    record = RunFolder.open(run).read("request")
    facts = {**record["request"], **record["model"], **record["model"]["head_options"]}
    return [Param(name, str(value)) for name, value in facts.items() if isinstance(value, str | int | float)]
