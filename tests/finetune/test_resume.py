"""kill -9 in the middle, then --resume: the very same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from helpers import without_seconds

from zoo.artifacts.runs import RunFolder

EPOCHS = "16"
STRATEGIES = ("probe", "partial", "lp-ft", "gradual", "surgical", "lora", "full", "scratch")
ALIKE = ("probe", "lp-ft", "gradual", "surgical", "full", "scratch")
"""Left to `exhaustive`: they take the same way through the loop as others here."""

EVERYTHING = {
    "probe": (),
    "partial": ("--cache", "always", "--views", "3", "--average"),
    "lp-ft": ("--lr-race", "--interpolate", "--average", "--l2-sp", "0.01"),
    "gradual": ("--cache", "always", "--co-tuning", "1"),
    "surgical": ("--balance", "--layer-decay", "0.5"),
    "lora": ("--lr-race", "--average", "--co-tuning", "1"),
    "scratch": ("--lr-race",),
}


@pytest.fixture
def backbone(strategy: str, vit_weights: Path) -> tuple[str, ...]:
    """One that the strategy is for."""
    return ("timm/test_vit", "--weights", str(vit_weights)) if strategy == "lora" else ("tiny/glyphnet",)


def _arguments(dataset: Path, strategy: str, out: Path, backbone: tuple[str, ...] = ("tiny/glyphnet",)) -> list[str]:
    steps = () if strategy == "probe" else ("--epochs", EPOCHS, "--patience", "0")
    return [
        *("finetune", str(dataset), "--backbone", *backbone, "--strategy", strategy, *steps),
        *EVERYTHING.get(strategy, ()),
        *("--batch-size", "8", "--device", "cpu", "--threads", "1", "--hidden", "16"),
        *("--dropout", "0.3", "--checkpoint-seconds", "0.1", "--out", str(out), "--quiet"),
    ]


def _killed(arguments: list[str], out: Path, cache: Path, when: Callable[[], bool]) -> None:
    """Starts the command and kills it as soon as `when` says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *arguments], env={**os.environ, "ZOO_CACHE": str(cache)}
    )
    limit = time.monotonic() + 120
    while process.poll() is None and not when() and time.monotonic() < limit:
        time.sleep(0.01)
    assert process.poll() is None, "finished before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not RunFolder.open(out).is_complete


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.slow if name == "lora" else ()) for name in STRATEGIES]
)
def test_killed_and_resumed_is_bit_identical(
    strategy: str,
    backbone: tuple[str, ...],
    dataset: Path,
    cache: Path,
    tmp_path: Path,
    zoo: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert zoo(*_arguments(dataset, strategy, whole, backbone)).returncode == 0
    metrics = cut / "metrics.jsonl"
    if strategy == "probe":  # it takes no steps: killed as soon as its records are written
        _killed(_arguments(dataset, strategy, cut), cut, cache, (cut / "request.json").exists)
    else:
        _killed(
            _arguments(dataset, strategy, cut, backbone),
            cut,
            cache,
            # An evaluation an epoch: the gradual one is cut in its last phase, when all stages have been trained.
            lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= (13 if strategy == "gradual" else 4),
        )
        assert (cut / "checkpoint" / "state.safetensors").is_file()  # it goes on, rather than begin again
    resumed = zoo("finetune", "--resume", "--out", cut, "--json")
    assert resumed.returncode == 0, resumed.stderr
    result, expected = json.loads(resumed.stdout), RunFolder.open_complete(whole).read("result")
    assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    for key in ("weights_sha256", "test_accuracy", "val_accuracy", "steps", "best_step"):
        assert result[key] == expected[key]
    rows = [RunFolder(folder).read_metrics() for folder in (cut, whole)]
    assert without_seconds(rows[0]) == without_seconds(rows[1])


def test_ctrl_c_leaves_a_resumable_run(
    dataset: Path, cache: Path, tmp_path: Path, zoo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "stopped"
    arguments = _arguments(dataset, "full", out)
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *arguments],
        env={**os.environ, "ZOO_CACHE": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    limit = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == f"error: interrupted; go on with `zoo finetune --resume --out {out}`"
    assert zoo("finetune", "--resume", "--out", out).returncode == 0
    assert zoo("finetune", "--resume", "--out", out, "--json").returncode == 0  # a finished run gives its result


def test_changed_data_is_refused(
    tmp_path: Path, cache: Path, zoo: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    from helpers import make_folder

    data, out = make_folder(tmp_path / "data", 4, 2), tmp_path / "run"
    _killed(_arguments(data, "full", out), out, cache, (out / "metrics.jsonl").exists)
    victim = data / "train" / "bars" / "000.png"
    victim.write_bytes((data / "train" / "dots" / "000.png").read_bytes())
    resumed = zoo("finetune", "--resume", "--out", out)
    assert resumed.returncode == 3
    assert f"data has changed since the run began: {victim}" in resumed.stderr


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=pytest.mark.exhaustive if name in ALIKE else pytest.mark.slow) for name in STRATEGIES],
)
def test_killed_three_times_at_random_is_bit_identical(
    strategy: str, backbone: tuple[str, ...], dataset: Path, cache: Path, tmp_path: Path
) -> None:
    """Every strategy, three kills each, at any moment: while Python starts, in a race, in any phase, at the end."""
    environ, kills = {**os.environ, "ZOO_CACHE": str(cache)}, 0
    random = Random(f"kills of {strategy}")
    cut, whole = tmp_path / "cut", tmp_path / "whole"

    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "zoo_cli", *words], env=environ, stderr=subprocess.DEVNULL)

    def begun() -> bool:
        return (cut / "request.json").exists()

    def go_on() -> subprocess.Popen[bytes]:
        resumed = ("finetune", "--resume", "--out", str(cut), "--quiet")
        return start(*(resumed if begun() else _arguments(dataset, strategy, cut, backbone)))

    def check() -> None:
        assert (cut / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
        assert without_seconds(RunFolder(cut).read_metrics()) == without_seconds(RunFolder(whole).read_metrics())
        shutil.rmtree(cut)

    began = time.monotonic()
    assert start(*_arguments(dataset, strategy, whole, backbone)).wait() == 0
    seconds = time.monotonic() - began
    while kills < 3:
        process = go_on()
        try:
            # Each attempt is cut a little later than its start-up takes, on average.
            process.wait(random.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += begun()
        if RunFolder(cut).is_complete:  # too late: once more, and sooner
            seconds *= 0.7
            check()
        elif not begun():  # too early
            seconds *= 1.1
            shutil.rmtree(cut, ignore_errors=True)
    if begun():
        assert go_on().wait() == 0
        check()
