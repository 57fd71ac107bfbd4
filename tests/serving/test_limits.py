"""What may differ from model to model, and a bound on memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from servers import Server, Start

_MB = 2**20


def _resident_mb(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def _write(path: Path, *, weights: int = 1, activations: int = 1) -> None:
    """A model that adds numbers; it has so many MB of them in its file, and makes so many of them when it is called."""
    large = numpy_helper.from_array(np.ones(weights * _MB // 4, np.float32), "large")
    shape = numpy_helper.from_array(np.array([activations * _MB // 4], np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceSum", ["wide"], ["sum"], keepdims=0),
        helper.make_node("ReduceMean", ["large"], ["mean"], keepdims=0),
        helper.make_node("Add", ["sum", "mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [large, shape],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10), path)


def _entry(server: Server, name: str) -> dict[str, str]:
    index = server.ask("POST", "/v2/repository/index", b"{}")[1]
    return next((entry for entry in index if entry["name"] == name), {})


def test_a_model_over_the_memory_budget_is_refused_and_replaces_nothing(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    _write(folder / "small.onnx")
    without = start(folder)
    budget = _resident_mb(without) + 40
    without.stop()
    server = start(folder, "--memory-budget", str(budget), "--poll", "0.1", "--allow-load")
    # By its file alone; by what it took when it was called; and of a model that is served, which goes on.
    _write(folder / "heavy.onnx", weights=64)
    _write(folder / "wide.onnx", activations=64)
    _write(tmp_path / "small.onnx", activations=64)
    (tmp_path / "small.onnx").replace(folder / "small.onnx")
    deadline = time.monotonic() + 60
    while len(server.get("/v2/health/ready")["refused"]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.get("/v2/health/ready") == {
        "ready": True,
        "missing": [],
        "refused": ["heavy:1", "small:1", "wide:1"],
    }
    assert f"over the memory budget of {budget:,} MB" in _entry(server, "heavy")["reason"]
    assert "heavy.onnx has 64 MB, and " in _entry(server, "heavy")["reason"]
    assert "wide.onnx it would be " in _entry(server, "wide")["reason"]
    assert _entry(server, "small")["state"] == "READY"
    # What was refused does not stay in memory, and there is room again where another model leaves.
    assert _resident_mb(server) <= budget
    _write(folder / "wide.onnx", activations=2)
    assert server.ask("POST", "/v2/repository/models/wide/load", b"{}") == (200, {})
    assert _entry(server, "wide") == {"name": "wide", "version": "1", "state": "READY", "reason": ""}


def test_models_have_settings_of_their_own(start: Start, tensor_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("first", "second"):
        shutil.copy(tensor_model, folder / f"{name}.onnx")
    (folder / "third.onnx").write_bytes(b"nonsense")
    config = tmp_path / "serve.toml"
    config.write_text(
        "max-batch = 16\n[model.second]\nmax-batch = 1\nmax-queue = 2\nthreads = 1\n[model.third]\nrequired = false\n"
    )
    server = start(folder, "--config", config)
    assert server.get("/v2/models/first/config")["max_batch_size"] in (2, 4, 8, 16)
    assert server.get("/v2/models/second/config")["max_batch_size"] == 0
    # The third one is not served, which is told; the server is ready without it.
    assert server.get("/v2/health/ready") == {"ready": True, "missing": [], "refused": ["third:1"]}
    assert "not a model ONNX Runtime can load" in _entry(server, "third")["reason"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3", "model = 3 in --config; give tables"),
        ("[model]\nplain = 3", "[model.plain]: 3; give a table"),
        ("[model.plain]\nmax-bach = 3", "unknown setting: 'max-bach'; did you mean 'max-batch'"),
        ("[model.plain]\nmax-batch = 0", "[model.plain] max-batch = 0; give a whole number from 1"),
        ("[model.plain]\nthreads = true", "threads = True; give a whole number from 1"),
        ("[model.plain]\nmax-delay = -1", "max-delay = -1; give seconds"),
        ("[model.plain]\nrequired = 1", "required = 1; give true or false"),
        ("[model.plane]\nmax-batch = 1", "[model.plane] is none of the models: 'plane'; did you mean 'plain'"),
    ],
)
def test_settings_that_make_no_sense_are_told(
    text: str, message: str, tensor_model: Path, tmp_path: Path, zoo: Callable[..., Any]
) -> None:
    (tmp_path / "serve.toml").write_text(text)
    done = zoo("serve", tensor_model, "--config", tmp_path / "serve.toml", "--port", "0")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
