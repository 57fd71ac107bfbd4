"""What `zoo bench` measures, of exported models and of runs in torch, and what it warns of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zoo.bench.cautions import busy_machine, strayed_nodes, unsteady
from zoo.errors import DeviceError, UsageError
from zoo.runtime.bound import bind
from zoo.runtime.feeds import model_feeds
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import cuda_devices, working_providers

Zoo = Callable[..., subprocess.CompletedProcess[str]]

_QUICK = ("--seconds", "0.1", "--threads", "1", "--device", "cpu")


def test_a_model_and_its_run_side_by_side(model: Path, run: Path, zoo: Zoo) -> None:
    done = zoo("bench", model, run, "--batch", "1,2", "--json", *_QUICK)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    engines = ["CPUExecutionProvider", "torch eager"]
    assert [(row["batch"], row["provider"]) for row in rows] == [(n, engine) for n in (1, 2) for engine in engines]
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["images_per_s"] > 0
        assert row["load_ms"] > 0
        assert row["threads"] == 1
        assert row["accuracy"] is None
    for exported, trained in zip(rows[::2], rows[1::2], strict=True):
        assert exported["faster"] == 1
        assert trained["faster"] == pytest.approx(exported["p50_ms"] / trained["p50_ms"], rel=0.5)
        assert exported["memory_mb"] > model.stat().st_size / 1e6
        assert 0 < exported["preprocess_ms"] < exported["p95_ms"]
        assert trained["memory_mb"] is trained["preprocess_ms"] is None


def test_tensors_that_stay_on_the_device(model: Path, zoo: Zoo) -> None:
    done = zoo("bench", model, "--batch", "2", "--io-binding", "--json", *_QUICK)
    assert done.returncode == 0, done.stderr
    assert [row["io_binding"] for row in json.loads(done.stdout)["rows"]] == [False, True]
    loaded = OnnxModel(model, device="cpu", threads=1)
    [feeds] = model_feeds(loaded, batch=2, images=())
    call = bind(loaded.session, feeds)
    for expected, found, again in zip(loaded.run(feeds), call(), call(), strict=True):
        assert np.array_equal(found.numpy(), expected)
        assert np.array_equal(again.numpy(), expected)


def test_accuracy_and_a_page(model: Path, tensor_model: Path, dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    done = zoo("bench", model, "--data", dataset, "--batch", "1,2", "--html", page, *_QUICK)
    assert done.returncode == 0, done.stderr
    assert "accuracy (95 %)" in done.stdout
    text = page.read_text()
    assert "Latency against accuracy" in text
    assert "prepare ms" in text
    assert text.count("<tr>") == 3
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert zoo("bench", tensor_model, "--html", page, *_QUICK).returncode == 0
    assert "Latency against throughput" in page.read_text()
    page.write_text("mine")
    done = zoo("bench", tensor_model, "--html", page, *_QUICK)
    assert done.returncode == UsageError.exit_code
    assert page.read_text() == "mine"


def test_more_threads_than_there_are(tensor_model: Path, zoo: Zoo) -> None:
    done = zoo("bench", tensor_model, "--threads", "64", "--batch", "1", "--seconds", "0.1", "--json")
    assert any("more threads than this process may use: 64" in words for words in json.loads(done.stdout)["warnings"])


def test_what_is_warned_of() -> None:
    assert busy_machine(0.0, 1) == []
    assert "load 900.0" in busy_machine(900.0, 1)[0]
    assert unsteady("a.onnx", 0.05) == []
    assert "40 % apart for a.onnx" in unsteady("a.onnx", 0.4)[0]
    assert strayed_nodes("a.onnx", "CUDA", {"CUDA": 7}) == []
    assert "not all on CUDA: 2 on CPU of 9 nodes" in strayed_nodes("a.onnx", "CUDA", {"CUDA": 7, "CPU": 2})[0]


def test_providers(tensor_model: Path, zoo: Zoo) -> None:
    assert "cpu" in working_providers(tensor_model)
    done = zoo("bench", tensor_model, "--provider", "all", "--batch", "1", "--seconds", "0.1", "--json")
    assert {row["provider"] for row in json.loads(done.stdout)["rows"]} >= {"CPUExecutionProvider"}
    done = zoo("bench", tensor_model, "--provider", "tensort")
    assert done.returncode == DeviceError.exit_code
    assert "did you mean 'tensorrt'?" in done.stderr


@pytest.mark.skipif(cuda_devices() > 0, reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "coreml"])
def test_a_provider_that_is_not_there(name: str, tensor_model: Path, zoo: Zoo) -> None:
    done = zoo("bench", tensor_model, "--provider", f"cpu,{name}")
    assert done.returncode == DeviceError.exit_code
    assert "--device cpu" in done.stderr
