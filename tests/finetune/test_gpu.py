"""What differs on a GPU: mixed precision, and state that goes to disk and back to the device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zoo.artifacts.runs import RunFolder
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("strategy", ["probe", "partial", "gradual", "surgical", "full", "scratch"])
def test_every_strategy_learns(strategy: str, dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = FinetuneRequest(
        data=str(dataset),
        backbone="tiny/glyphnet",
        strategy=strategy,  # type: ignore[arg-type]
        epochs=None if strategy == "probe" else 6,
        batch_size=16,
        device="cuda",
    )
    result = finetune(request, tmp_path / "run", environment, Silent())
    assert result["device"] == torch.cuda.get_device_name()
    assert result["test_accuracy"] > (0.3 if strategy in ("scratch", "full") else 0.7)


def test_averages_and_statistics_go_on_where_they_were(
    dataset: Path, cache: Path, tmp_path: Path, zoo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "run"
    words = ["finetune", str(dataset), "--backbone", "tiny/glyphnet", "--strategy", "lp-ft", "--average"]
    words += ["--interpolate", "--epochs", "60", "--patience", "0", "--device", "cuda", "--checkpoint-seconds", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *words, "--out", str(out)], env={**os.environ, "ZOO_CACHE": str(cache)}
    )
    limit = time.monotonic() + 120
    while not (out / "checkpoint" / "state.safetensors").is_file() and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not RunFolder.open(out).is_complete
    resumed = zoo("finetune", "--resume", "--out", out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["test_accuracy"] > 0.7
