"""Several processes on one run: what one with the larger batch would do, and all of them end together."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from helpers import without_seconds
from safetensors.torch import load_file
from torch.testing import assert_close

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.errors import DataError, DeviceError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import dry_run, finetune
from zoo.nn.augment import Augment
from zoo.nn.batches import Batches, Share, batch_length
from zoo.progress import Silent
from zoo.specs import ImageInput

Zoo = Callable[..., subprocess.CompletedProcess[str]]

slow = pytest.mark.slow


def _request(dataset: Path, **options: object) -> FinetuneRequest:
    # 30 images in batches of 16 at most: two steps of 15, which two processes share as 8 and 7.
    common = {"data": str(dataset), "backbone": "tiny/glyphnet", "device": "cpu", "threads": 1, "patience": 0}
    return FinetuneRequest(**{**common, "batch_size": 8, "devices": 2, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "lp-ft", "epochs": 3},
        pytest.param({"strategy": "partial", "cache": "always", "views": 2, "epochs": 4}, marks=slow),
        pytest.param({"strategy": "gradual", "epochs": 8, "average": True}, marks=slow),
        pytest.param({"strategy": "surgical", "epochs": 3, "balance": True}, marks=slow),
        pytest.param({"strategy": "lp-ft", "epochs": 10, "lr_race": True, "co_tuning": 1.0, "l2_sp": 0.01}, marks=slow),
    ],
    ids=lambda options: str(options["strategy"]) + ("-everything" if "lr_race" in options else ""),
)
def test_two_processes_train_as_one_with_twice_the_batch(
    options: dict[str, object], dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    together = _request(dataset, **options)
    alone = replace(together, devices=1, batch_size=16)
    results = [
        finetune(request, tmp_path / name, environment, Silent())
        for request, name in ((together, "together"), (alone, "alone"))
    ]
    assert active_children() == []
    for key in ("steps", "best_step", "val_accuracy", "test_accuracy"):
        assert results[0][key] == results[1][key]
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("together", "alone")]
    assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    losses = [
        [(row["train_loss"] or 0, row["val_loss"]) for row in RunFolder(tmp_path / name).read_metrics()]
        for name in ("together", "alone")
    ]
    assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-5)


def test_what_is_wrong_from_the_beginning_is_told_before_any_process_starts(
    dataset: Path, environment: Environment, tmp_path: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"--devices 40: some step would have no image .*30 training images"):
        dry_run(_request(dataset, strategy="full", devices=40), environment, Silent())
    with pytest.raises(UsageError, match="--devices means nothing to a probe"):
        _request(dataset, strategy="probe")
    with pytest.raises(UsageError, match="--devices 2: a trial of a search trains on one device"):
        _request(dataset, strategy="full", trials=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(DeviceError, match="--devices 2, torch sees 1"):
        finetune(_request(dataset, strategy="full", device="auto"), tmp_path / "no", environment, Silent())
    assert not (tmp_path / "no").exists()
    run = RunFolder.create(tmp_path / "begun")
    run.write("request", {"request": {"data": str(dataset), "backbone": "tiny/glyphnet", "devices": 2}})
    run.write("dataset", {"source": "", "root": "", "classes": [], "samples": []})
    refused = zoo("finetune", "--resume", "--out", run.path, "--devices", 3)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: --devices 3: {run.path} began with 2")


@pytest.mark.parametrize("policy", ["none", "affine", "trivial"])
def test_shares_together_are_the_batch(policy: Augment, dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    size = ImageInput(height=32, width=32)
    batches = Batches(data.of("train"), store=ImageStore(data), input_spec=size, batch_size=8)
    shares = [Share(rank=rank, world=3) for rank in range(3)]
    whole = list(batches.augmented(policy, seed=1, epoch=2))
    parts = [list(batches.augmented(policy, seed=1, epoch=2, share=share)) for share in shares]
    for number, (images, labels) in enumerate(whole):
        assert len(labels) == batch_length(batches, number)
        assert torch.equal(torch.cat([part[number][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)
    in_order = [labels for _, labels in batches.plain()]
    rounds = itertools.zip_longest(*(batches.plain(share) for share in shares))
    assert torch.equal(
        torch.cat([labels for several in rounds for _, labels in filter(None, several)]), torch.cat(in_order)
    )


FAILING = """
import torch
from torch import nn
from zoo.errors import DataError
from zoo.hookspecs import hookimpl
from zoo.specs import HeadSpec

calls = []

def loss(logits, labels):
    calls.append(1)
    if len(calls) == 3 and torch.distributed.get_rank() == 1:
        raise DataError("the second process cannot go on")
    return nn.functional.cross_entropy(logits, labels)

@hookimpl
def zoo_heads():
    return [HeadSpec(name="failing", task="classification", summary="fails", needs="embedding", options={},
                     build=lambda features, classes, options: nn.Linear(features, classes), loss=loss)]
"""


def test_an_error_in_one_process_is_the_error_of_all(
    dataset: Path, environment: Environment, tmp_path: Path, make_plugin: Callable[..., Path]
) -> None:
    make_plugin("failing", FAILING)
    request = _request(dataset, strategy="full", epochs=4, head="failing")
    with pytest.raises(DataError) as failure:
        finetune(request, tmp_path / "run", replace(environment, catalogue=Catalogue.installed()), Silent())
    assert str(failure.value) == "the second process cannot go on"
    assert failure.value.__notes__[0].startswith("process 2 of 2: Traceback")
    assert active_children() == []
    assert not RunFolder.open(tmp_path / "run").is_complete


class _Command:
    """`zoo finetune` on two processes, and its folder."""

    def __init__(self, dataset: Path, cache: Path, out: Path, *more: str) -> None:
        self.out = out
        words = [
            *("finetune", str(dataset), "--backbone", "tiny/glyphnet", "--device", "cpu", "--threads", "1"),
            *("--devices", "2", "--batch-size", "4", "--patience", "0", "--checkpoint-seconds", "0.1"),
            *("--hidden", "16", "--dropout", "0.3", "--out", str(out), "--quiet", *more),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zoo_cli", *words],
            env={**os.environ, "ZOO_CACHE": str(cache)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_evaluations(self, count: int) -> list[int]:
        """Waits for so many lines of metrics; the processes that train."""
        metrics = self.out / "metrics.jsonl"
        limit = time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= count) and time.monotonic() < limit:
            assert self.process.poll() is None
            time.sleep(0.01)
        return [
            child
            for child in _children(self.process.pid)
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()  # not what tracks their resources
        ]

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _all_gone(pids: list[int]) -> bool:
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_a_killed_process_takes_the_others_along(dataset: Path, cache: Path, tmp_path: Path) -> None:
    command = _Command(dataset, cache, tmp_path / "run", "--strategy", "scratch", "--epochs", "400")
    members = command.until_evaluations(2)
    assert len(members) == 2
    os.kill(members[1], signal.SIGKILL)
    code, errors = command.end()
    assert code == 7
    assert errors == "error: process 2 of 2 was killed (signal 9); see that memory suffices, then --resume\n"
    assert _all_gone(members)


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run folder of a command with these arguments that nothing disturbed; each is run once."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*arguments: str) -> Path:
        if arguments not in done:
            whole = _Command(dataset, cache, tmp_path_factory.mktemp("whole") / "run", *arguments)
            assert whole.end() == (0, "")
            done[arguments] = whole.out
        return done[arguments]

    return run


@linux
@pytest.mark.parametrize(
    ("how", "options"),
    [
        pytest.param("kill", ("scratch",), marks=pytest.mark.exhaustive),
        pytest.param("ctrl-c", ("gradual", "--cache", "always"), marks=pytest.mark.slow),
        pytest.param("terminate all", ("scratch",), marks=pytest.mark.exhaustive),
    ],
    ids=["kill", "ctrl-c", "terminate all"],
)
def test_stopped_and_resumed_is_bit_identical(
    how: str,
    options: tuple[str, ...],
    dataset: Path,
    cache: Path,
    tmp_path: Path,
    zoo: Zoo,
    uninterrupted: Callable[..., Path],
) -> None:
    arguments = ("--strategy", *options, "--epochs", "16")
    whole = uninterrupted(*arguments)
    cut = _Command(dataset, cache, tmp_path / "cut", *arguments)
    members = cut.until_evaluations(4)
    assert len(members) == 2
    if how == "kill":
        cut.process.kill()
        assert cut.end()[0] == -signal.SIGKILL
    else:
        targets = [cut.process.pid, *members]
        for pid in targets[: 1 if how == "ctrl-c" else None]:
            os.kill(pid, signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        code, errors = cut.end()
        assert errors == f"error: interrupted; go on with `zoo finetune --resume --out {cut.out}`\n"
        assert code == 130
    assert _all_gone(members)
    assert (cut.out / "checkpoint" / "state.safetensors").is_file()
    resumed = zoo("finetune", "--resume", "--out", cut.out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert (cut.out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert json.loads(resumed.stdout)["steps"] == RunFolder.open_complete(whole).read("result")["steps"]
    rows = [RunFolder(folder).read_metrics() for folder in (cut.out, whole)]
    assert without_seconds(rows[0]) == without_seconds(rows[1])


FULL = """
import errno
import os
from multiprocessing import parent_process
from zoo.hookspecs import hookimpl

def full(*arguments):
    raise OSError(errno.ENOSPC, "no space")

if parent_process() is not None:
    os.posix_fallocate = full

@hookimpl
def zoo_heads():
    return []
"""


@linux
@slow
def test_activations_that_do_not_fit_on_disk_are_kept_in_memory_by_all(
    dataset: Path, environment: Environment, tmp_path: Path, make_plugin: Callable[..., Path]
) -> None:
    request = _request(dataset, strategy="partial", cache="always", epochs=2)
    expected = finetune(request, tmp_path / "kept", environment, Silent())
    make_plugin("full", FULL)
    full = Environment(catalogue=Catalogue.installed(), cache=tmp_path / "cache")
    found = finetune(request, tmp_path / "memory", full, Silent())
    assert list((tmp_path / "cache" / "features").iterdir()) == []
    assert found["weights_sha256"] == expected["weights_sha256"]
