"""A learning rate far too high: it is told, nothing good is lost, and the run can be reported."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.artifacts.runs import RunFolder
from zoo.errors import RunError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent
from zoo.report.charts import loss_curves


def test_a_rate_far_too_high_is_told_and_keeps_the_best(
    dataset: Path, tmp_path: Path, zoo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    options = ("--backbone", "tiny/glyphnet", "--strategy", "lp-ft", "--lr", "1e9", "--device", "cpu", "--json")
    done = zoo("finetune", dataset, *options, "--out", tmp_path / "wild")
    assert done.returncode == 0, done.stderr
    assert "training diverged at step" in done.stderr
    result = json.loads(done.stdout)
    assert (result["diverged"], result["best_step"]) == (True, 0)
    assert result["test_accuracy"] > 0.7  # the probe it started from
    blind = zoo("finetune", dataset, *options, "--val-share", "0", "--out", tmp_path / "blind")
    assert blind.returncode == 0, blind.stderr
    result = json.loads(blind.stdout)
    assert (result["diverged"], result["best_step"], result["test_accuracy"] > 0.7) == (True, 0, True)
    options = (*options[:3], "full", *options[4:])  # from a random head, which is nothing to go back to
    lost = zoo("finetune", dataset, *options, "--val-share", "0", "--out", tmp_path / "lost")
    assert (lost.returncode, lost.stdout.count("diverged")) == (7, 1)


def test_a_loss_beyond_all_numbers_can_be_reported(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for step, loss in enumerate((1.0, float("inf"), float("nan"))):
        RunFolder(copy).append_metrics({"event": "evaluation", "step": step, "val_loss": loss, "val_accuracy": 0.5})
    assert [row["val_loss"] for row in RunFolder(copy).read_metrics()] == [1.0, None, None]
    assert loss_curves(RunFolder(copy).read_metrics(), 0) is not None


def test_weights_that_explode_in_the_last_step_are_told(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    request = FinetuneRequest(
        data=str(dataset),
        backbone="tiny/glyphnet",
        strategy="full",
        epochs=1,
        batch_size=64,
        lr=1e38,
        val_share=0.0,
        augment="none",
        device="cpu",
        threads=1,
    )
    with pytest.raises(RunError, match="training diverged: weights are no numbers after step 1; give a lower --lr"):
        finetune(request, tmp_path / "run", environment, Silent())
