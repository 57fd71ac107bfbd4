"""A run and its exported model are judged alike, and what `predict` and `bench` report is what the model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo.artifacts.runs import RunFolder
from zoo.export.run import export
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent

Zoo = Callable[..., Any]


def test_run_and_model_agree(run: Path, model: Path, dataset: Path, zoo: Zoo) -> None:
    by_run = json.loads(zoo("evaluate", run, dataset, "--json").stdout)
    by_model = json.loads(zoo("evaluate", model, dataset, "--json", "--device", "cpu").stdout)
    assert by_run["accuracy"] == by_model["accuracy"] == RunFolder.open(run).read("result")["test_accuracy"]
    assert by_run["n"] == by_model["n"] == 24
    assert by_run["ece"] == pytest.approx(by_model["ece"], abs=1e-4)
    assert by_run["seen_in_training"] == 0
    low, high = by_model["interval95"]
    assert low <= by_model["accuracy"] <= high + 1e-6
    assert {name: row["n"] for name, row in by_model["per_class"].items()} == {"bars": 8, "dots": 8, "rings": 8}


def test_data_without_test_images_is_split_as_for_the_training(
    dataset: Path, environment: Environment, tmp_path: Path, zoo: Zoo
) -> None:
    flat, run, model = dataset / "train", tmp_path / "run", tmp_path / "model.onnx"
    request = FinetuneRequest(data=str(flat), backbone="tiny/glyphnet", strategy="probe", seed=3, device="cpu")
    accuracy = finetune(request, run, environment, Silent())["test_accuracy"]
    export(run, model, catalogue=environment.catalogue, progress=Silent())
    assert json.loads(zoo("evaluate", run, flat, "--json").stdout)["seen_in_training"] == 0
    assert json.loads(zoo("evaluate", run, flat, "--seed", "0", "--json").stdout)["seen_in_training"] > 0
    assert json.loads(zoo("evaluate", model, flat, "--json").stdout)["accuracy"] == accuracy


def test_images_of_the_training_are_noticed(run: Path, dataset: Path, zoo: Zoo) -> None:
    done = zoo("evaluate", run, dataset, "--split", "train")
    assert "beware: 30 of these images were trained on" in done.stdout


def test_classes_are_matched_by_name(model: Path, dataset: Path, tmp_path: Path, zoo: Zoo) -> None:
    """Fewer classes than the model knows, so that their numbers differ."""
    part = tmp_path / "part"
    for split in ("train", "test"):
        for name in ("dots", "rings"):
            shutil.copytree(dataset / split / name, part / split / name)
    whole = json.loads(zoo("evaluate", model, dataset, "--json").stdout)["per_class"]
    found = json.loads(zoo("evaluate", model, part, "--json").stdout)
    assert found["n"] == 16
    assert {name: found["per_class"][name]["recall"] for name in ("dots", "rings")} == {
        name: whole[name]["recall"] for name in ("dots", "rings")
    }
    for split in ("train", "test"):
        (part / split / "dots").rename(part / split / "stars")
    done = zoo("evaluate", model, part)
    assert done.returncode == 3
    assert "classes the model does not know: stars" in done.stderr


def test_images_for_testing_only_will_do(model: Path, dataset: Path, tmp_path: Path, zoo: Zoo) -> None:
    """All of them are measured, be they in a folder, listed in a table, or of one class."""
    whole = json.loads(zoo("evaluate", model, dataset, "--json").stdout)
    only = tmp_path / "only"
    shutil.copytree(dataset / "test", only / "test")
    assert json.loads(zoo("evaluate", model, only, "--json").stdout) == whole
    table = tmp_path / "list.csv"
    rows = [f"{path},{path.parent.name},test\n" for path in sorted((only / "test" / "dots").iterdir())]
    table.write_text("path,label,split\n" + "".join(rows))
    found = json.loads(zoo("evaluate", model, table, "--json").stdout)
    assert found["n"] == 8
    assert found["per_class"]["dots"]["recall"] == whole["per_class"]["dots"]["recall"]


def test_predict_gives_labels_with_probabilities(model: Path, dataset: Path, zoo: Zoo) -> None:
    files = sorted((dataset / "test" / "rings").iterdir())[:3]
    rows = json.loads(zoo("predict", model, *files, "--json").stdout)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for row in rows:
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}
        assert sum(best["probability"] for best in row["top"]) == pytest.approx(1, abs=1e-5)


def test_bench_rows(model: Path, dataset: Path, zoo: Zoo) -> None:
    done = zoo(
        "bench",
        model,
        "--batch",
        "1,3",
        "--threads",
        "1",
        "--seconds",
        "0.1",
        "--data",
        dataset,
        "--json",
        *("--device", "cpu"),
    )
    rows = json.loads(done.stdout)["rows"]
    assert [(row["batch"], row["threads"], row["provider"]) for row in rows] == [
        (1, 1, "CPUExecutionProvider"),
        (3, 1, "CPUExecutionProvider"),
    ]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["p50_ms"] * 1e3, rel=0.8)
        assert set(row["nodes"]) == {"CPUExecutionProvider"}
        assert 0 <= row["accuracy"] <= 1
