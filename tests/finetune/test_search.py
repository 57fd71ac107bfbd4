"""A search asks the same questions whatever happens to its process, and its run is its best trial."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from helpers import make_folder

from zoo.artifacts.files import sha256_file
from zoo.artifacts.runs import RunFolder
from zoo.errors import DeviceError, RunError, UsageError, WeightsError, ZooError
from zoo.export.run import export
from zoo.finetune.job import Job
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune, resume
from zoo.finetune.search import Trial, propose
from zoo.finetune.space import Dimension
from zoo.finetune.trial import drop_weights
from zoo.progress import Silent
from zoo.report.run import report

TRIALS = 4
OPTIONS = ("--strategy", "full", "--epochs", "8", "--batch-size", "8", "--trials", str(TRIALS))
MACHINE = ("--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0", "--quiet")


def _request(dataset: Path, **options: Any) -> FinetuneRequest:
    common = {"data": str(dataset), "backbone": "tiny/glyphnet", "strategy": "full", "epochs": 2, "trials": 2}
    return FinetuneRequest(**common | {"device": "cpu", "threads": 1, "batch_size": 16} | options)


def _arguments(dataset: Path, out: Path) -> list[str]:
    return ["finetune", str(dataset), "--backbone", "tiny/glyphnet", *OPTIONS, *MACHINE, "--out", str(out)]


@pytest.fixture(scope="module")
def searched(dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    out = tmp_path_factory.mktemp("search") / "run"
    request = _request(dataset, epochs=8, batch_size=8, trials=TRIALS, checkpoint_seconds=0.0)
    finetune(request, out, environment, Silent())
    return out


def _trials(out: Path) -> list[RunFolder]:
    return [RunFolder.open_complete(path) for path in sorted((out / "trials").iterdir())]


def test_the_best_of_so_many_trials(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    result = finetune(_request(dataset, epochs=1, trials=TRIALS), tmp_path / "run", environment, Silent())
    trials = _trials(tmp_path / "run")
    assert [trial.path.name for trial in trials] == ["001", "002", "003", "004"]
    results = [trial.read("result") for trial in trials]
    assert (result["trials"], result["failed_trials"]) == (TRIALS, 0)
    assert result["search_seconds"] == pytest.approx(sum(row["seconds"] for row in results))
    truth = [sample["label"] for sample in trials[0].read("dataset")["samples"] if sample["split"] == "val"]
    # Most right answers; between equals, the lowest loss.
    order = []
    for trial in trials:
        found = trial.read_predictions()["val"]
        order.append(((found.argmax(1) == truth).sum(), np.log(found[range(len(truth)), truth]).mean()))
    assert len({accuracy for accuracy, _ in order}) > 1
    assert result["best_trial"] == 1 + order.index(max(order))
    settings = trials[result["best_trial"] - 1].read("request")["request"]
    assert result["best_settings"].pop("dropout") == settings["head_options"]["dropout"]
    assert result["best_settings"] == {name: settings[name] for name in ("lr", "layer_decay", "average", "augment")}


def test_the_first_trial_is_what_there_is_without_a_search(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    # Whether activations are kept, and so in how many views, is decided by measuring: not the same in both runs.
    request = _request(dataset, strategy="partial", trials=1, cache="never")
    first = finetune(request, tmp_path / "first", environment, Silent())
    usual = finetune(replace(request, trials=None), tmp_path / "usual", environment, Silent())
    assert first["weights_sha256"] == usual["weights_sha256"]
    assert first["best_settings"] == {
        **{"lr": 3e-4, "layer_decay": 1.0, "freeze_stages": 3},
        **{"average": False, "augment": "affine", "dropout": 0.0},
    }


def test_the_run_is_its_best_trial(searched: Path, environment: Environment, tmp_path: Path) -> None:
    run, trials = RunFolder.open_complete(searched), _trials(searched)
    result = run.read("result")
    best = trials[result["best_trial"] - 1]
    assert result["run"] == str(searched)
    assert result["weights_sha256"] == sha256_file(run.weights) == best.read("result")["weights_sha256"]
    assert run.read_model() == best.read_model()
    assert run.read_metrics() == best.read_metrics()
    # What was asked for is still a search, so that the same command can be given again.
    assert run.read("request")["request"]["trials"] == TRIALS
    assert not list(searched.glob("trials/**/*.safetensors"))
    assert export(searched, tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())["model"]
    assert report(searched, tmp_path / "report.html")["accuracy"] == pytest.approx(result["test_accuracy"])
    assert "--trials 4" in (tmp_path / "report.html").read_text()
    assert resume(searched, environment, Silent()) == result


def test_killed_in_a_trial_and_resumed_is_bit_identical(
    searched: Path,
    dataset: Path,
    cache: Path,
    tmp_path: Path,
    zoo: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    out = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", *_arguments(dataset, out)], env={**os.environ, "ZOO_CACHE": str(cache)}
    )
    metrics = out / "trials" / "003" / "metrics.jsonl"
    limit = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3) and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (metrics.parent / "checkpoint" / "state.safetensors").is_file()
    assert not RunFolder.open(metrics.parent).is_complete
    resumed = zoo("finetune", "--resume", "--out", out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    result, expected = json.loads(resumed.stdout), RunFolder.open_complete(searched).read("result")
    assert (out / "weights.safetensors").read_bytes() == (searched / "weights.safetensors").read_bytes()
    for key in ("best_trial", "best_settings", "val_accuracy", "test_accuracy", "weights_sha256", "steps"):
        assert result[key] == expected[key]
    for cut, whole in zip(_trials(out), _trials(searched), strict=True):
        assert cut.read("request") == whole.read("request")
        assert cut.read("result")["weights_sha256"] == whole.read("result")["weights_sha256"]


def test_a_proposal_follows_from_seed_and_trials_alone(tmp_path: Path) -> None:
    from optuna.distributions import FloatDistribution

    space = {"lr": Dimension(range=FloatDistribution(1e-5, 1e-2, log=True), default=1e-3)}
    trials: list[Trial] = []
    for number in range(1, 15):  # past Optuna's random start
        settings = propose(space, trials, 0)
        assert settings == propose(space, trials, 0)
        assert number == 1 or settings != propose(space, trials, 1)
        trials.append(
            Trial(
                number=number,
                settings=settings,
                folder=tmp_path,
                score=-abs(settings["lr"] - 1e-4),
                val_accuracy=0.0,
                seconds=0.0,
                error=None,
            )
        )


def test_what_the_user_gave_is_not_searched(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    given = {"lr": 0.002, "layer_decay": 0.9, "augment": "none", "head_options": {"dropout": 0.1}}
    result = finetune(_request(dataset, **given), tmp_path / "run", environment, Silent())
    assert list(result["best_settings"]) == ["average"]
    with pytest.raises(UsageError, match="--trials 2: every setting is given, none is left to search; leave one out"):
        finetune(_request(dataset, average=True, **given), tmp_path / "none", environment, Silent())
    assert not (tmp_path / "none").exists()


def test_a_trial_that_fails_is_left_out(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.errors import PluginError

    finish = Job.finish
    failing = {1}

    def sometimes(job: Job) -> dict[str, Any]:
        if int(job.run.path.name) in failing:
            raise PluginError("head cannot be built")
        return finish(job)

    monkeypatch.setattr(Job, "finish", sometimes)
    result = finetune(_request(dataset), tmp_path / "one", environment, Silent())
    assert (result["best_trial"], result["failed_trials"], result["trials"]) == (2, 1, 2)
    failing.add(2)
    with pytest.raises(RunError, match=r"no trial succeeded: .*, the first one: head cannot be built; mend that"):
        finetune(_request(dataset), tmp_path / "none", environment, Silent())
    assert not RunFolder.open(tmp_path / "none").is_complete


@pytest.mark.parametrize(
    "error",
    [
        RunError("cannot write the checkpoint; free space, then --resume"),
        DeviceError("device not there: 'cuda'; use --device cpu"),
        ZooError("frozen stage 0 changed in training; report this as a bug of Zoo"),
    ],
)
def test_what_is_no_fault_of_the_settings_ends_the_search(
    error: ZooError, dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def fail(job: Job) -> dict[str, Any]:
            raise error

        patch.setattr(Job, "finish", fail)
        with pytest.raises(type(error), match=str(error)):
            finetune(_request(dataset), tmp_path / "run", environment, Silent())
    assert resume(tmp_path / "run", environment, Silent())["failed_trials"] == 0


def test_weights_that_were_away_for_a_moment(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    import zoo_tiny

    own, away = tmp_path / "own.safetensors", tmp_path / "away.safetensors"
    shutil.copy(Path(zoo_tiny.__file__).parent / "weights" / "glyphs_v1.safetensors", own)

    class Watch(Silent):
        def say(self, message: str) -> None:
            if message.startswith("trial 1 of 2: validation accuracy"):
                own.rename(away)

    with pytest.raises(WeightsError, match=r"no such weights file: .*own\.safetensors"):
        finetune(_request(dataset, weights=str(own)), tmp_path / "run", environment, Watch())
    away.rename(own)
    assert resume(tmp_path / "run", environment, Silent())["failed_trials"] == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_cut_off_where_the_best_weights_are_dropped(
    when: str, dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def cut(folder: Path) -> None:
        concluding = (out / "weights.safetensors").is_file()
        if not concluding or when == "after":
            drop_weights(folder)
        if concluding:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.finetune.search.drop_weights", cut)
        with pytest.raises(KeyboardInterrupt):
            finetune(_request(dataset, epochs=1), out, environment, Silent())
    result = resume(out, environment, Silent())
    assert result["weights_sha256"] == sha256_file(out / "weights.safetensors")
    assert not list(out.glob("trials/**/*.safetensors"))


def test_two_processes_do_not_work_on_one_run(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    out = tmp_path / "run"

    class Watch(Silent):
        def say(self, message: str) -> None:
            if message.startswith("trial 1 of 2: validation accuracy"):
                with pytest.raises(RunError, match="another process works on this run"):
                    resume(out, environment, Silent())
                told.append(message)

    told: list[str] = []
    finetune(_request(dataset), out, environment, Watch())
    assert told
    with FileLock(out / ".lock").acquire(timeout=0):  # and it has let go
        pass


def test_requests_that_cannot_be_searched(environment: Environment, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trials: 0; must be more than 0"):
        _request(dataset, trials=0)
    with pytest.raises(UsageError, match="--trials means nothing to a probe"):
        _request(dataset, strategy="probe", epochs=None)
    few = make_folder(tmp_path / "few", 4, 2)
    with pytest.raises(UsageError, match="--trials: no validation images to judge by; leave it out or give"):
        finetune(_request(few), tmp_path / "run", environment, Silent())
    assert not (tmp_path / "run").exists()


def test_progress_names_the_trial_and_the_best(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, message: str) -> None:
            said.append(message)

    request = replace(_request(dataset), lr=0.001)
    finetune(request, tmp_path / "run", environment, Listening())
    first, second = (line for line in said if line.startswith("trial"))
    assert first.startswith("trial 1 of 2: validation accuracy ")
    assert second.startswith("trial 2 of 2, best so far ")


def test_optuna_is_loaded_only_for_a_search() -> None:
    code = "import sys, zoo.finetune.run; print('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
