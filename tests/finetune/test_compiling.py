"""Training through torch.compile: the same training, tried only where it may pay, resumed as it began."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.artifacts.runs import RunFolder
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.finetune.compiling import StepTimes, measure_steps
from zoo.finetune.objective import Network, Objective
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.nn.batches import Batches
from zoo.nn.build import load_run_model
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel, state_digest
from zoo.progress import Silent

Zoo = Callable[..., subprocess.CompletedProcess[str]]

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler, which torch.compile needs",
)


def _words(dataset: Path, out: Path, choice: str) -> list[str]:
    return [
        *("finetune", str(dataset), "--backbone", "tiny/glyphnet", "--strategy", "full", "--epochs", "16"),
        *("--patience", "0", "--batch-size", "8", "--augment", "none", "--compile", choice),
        *("--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0", "--out", str(out)),
    ]


def test_a_short_training_is_not_worth_trying(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    spec = environment.catalogue.find_backbone("tiny/glyphnet")[0].spec
    head = nn.Linear(spec.num_features, len(data.classes))
    model = TransferModel(backbone=spec.split(spec.build()), head=head, input_spec=spec.input)
    before = state_digest([model])
    times = measure_steps(
        Network(model),
        Batches(data.of("train"), store=ImageStore(data), input_spec=spec.input, batch_size=8),
        objective=Objective(loss=nn.functional.cross_entropy),
        policy="none",
        steps=10,
        fabric=make_fabric("cpu", 1),
    )
    assert times.usual > 0
    assert math.isinf(times.compiled)
    assert not times.pays
    assert times.to_json() == {"usual": times.usual, "compiled": None, "compiling": None}
    assert state_digest([model]) == before, "statistics of BatchNorm have moved"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_compiled_steps_must_be_clearly_faster() -> None:
    assert StepTimes(usual=1.0, compiled=0.8, compiling=60).pays
    assert not StepTimes(usual=1.0, compiled=0.95, compiling=60).pays


def test_nothing_is_compiled_on_a_cpu_unasked(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = FinetuneRequest(
        data=str(dataset), backbone="tiny/glyphnet", strategy="full", epochs=1, device="cpu", batch_size=16
    )
    finetune(request, tmp_path / "run", environment, Silent())
    assert "compile phase 0" not in RunFolder.open(tmp_path / "run").read_decisions()


@pytest.mark.slow
@needs_compiler
def test_it_is_the_same_training(dataset: Path, environment: Environment, tmp_path: Path, zoo_process: Zoo) -> None:
    for name in ("never", "always"):
        done = zoo_process(*_words(dataset, tmp_path / name, name))
        assert done.returncode == 0, done.stderr
    assert "compiled in" in done.stderr
    decision = RunFolder.open(tmp_path / "always").read_decisions()["compile phase 0"]
    assert decision["compile"]
    assert decision["compiled"] > 0
    states = [
        load_run_model(RunFolder.open(tmp_path / name), environment.catalogue)[0].state_dict()
        for name in ("never", "always")
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0.01, atol=0.01, msg=name)


@pytest.mark.exhaustive
@needs_compiler
def test_it_goes_on_as_it_began(dataset: Path, cache: Path, tmp_path: Path, zoo_process: Zoo) -> None:
    whole = zoo_process(*_words(dataset, tmp_path / "always", "always"))
    assert whole.returncode == 0, whole.stderr
    cut = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *_words(dataset, cut, "always")],
        env={**os.environ, "ZOO_CACHE": str(cache)},
    )
    limit, metrics = time.monotonic() + 300, cut / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < limit:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 4:
            break
        time.sleep(0.01)
    assert process.poll() is None, "finished before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = zoo_process("finetune", "--resume", "--out", cut, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "compiled in" not in resumed.stderr, "measured again"
    assert (cut / "weights.safetensors").read_bytes() == (tmp_path / "always" / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_without_a_compiler_it_says_so(dataset: Path, tmp_path: Path, zoo_process: Zoo) -> None:
    none = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    refused = zoo_process(*_words(dataset, tmp_path / "run", "always"), **none)
    assert refused.returncode == 7
    assert "torch cannot compile this network here" in refused.stderr
    assert "leave out --compile always" in refused.stderr
