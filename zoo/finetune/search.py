"""Hyper-parameters found by trying: Optuna proposes, validation images judge, the best trial becomes the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from zoo.artifacts.runs import RunFolder
from zoo.errors import RunError
from zoo.finetune.events import tell_plugins
from zoo.finetune.job import Job
from zoo.finetune.space import Dimension, search_space
from zoo.finetune.trial import drop_weights, try_settings
from zoo.nn.engine import derive_seed
from zoo.progress import Named


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial that has come to its end."""

    number: int
    settings: Mapping[str, Any]
    folder: Path
    score: float
    """What is larger is better; 0 where it failed."""
    val_accuracy: float
    seconds: float
    error: str | None
    """Why it failed."""


def search(job: Job) -> dict[str, Any]:
    """The result of the best of the trials that `job` asks for, which its run folder then holds like any other run.

    Trials are runs in `trials/001`, `002`, ... of that folder; the first has the default settings. All that is decided
    is written down in the run, so that a search that was cut off goes on where it was. Trials keep their records, not
    their weights: the best ones are in the run itself.

    Raises RunError where no trial succeeds.
    """
    # Its warnings go to the caller's logging, and that a study was made is no news.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run, request = job.run, job.request
    assert request.trials is not None
    space = search_space(request, job.resolved, job.plan)
    trials: list[Trial] = []
    best: Trial | None = None
    for number in range(1, request.trials + 1):
        settings = run.decide(f"settings of trial {number}", partial(propose, space, trials, request.seed))
        so_far = f", best so far {100 * best.val_accuracy:.1f} %" if best else ""
        progress = Named(job.progress, f"trial {number} of {request.trials}{so_far}")
        folder = run.path / "trials" / f"{number:03d}"
        outcome = run.decide(f"outcome of trial {number}", partial(try_settings, job, settings, folder, progress))
        trials.append(Trial(number=number, settings=settings, folder=folder, **outcome))
        succeeded = (trial for trial in trials if trial.error is None)
        best = max(succeeded, key=lambda trial: trial.score, default=None)
        for trial in trials:
            if trial is not best:
                drop_weights(trial.folder)
    if best is None:
        raise RunError(
            f"no trial succeeded: {run.path}, the first one: {trials[0].error}; mend that and start a new run"
        )
    return _conclude(job, trials, best)


def propose(space: Mapping[str, Dimension], trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """The settings to try next: the defaults first, then what Optuna makes of the trials so far.

    They follow from the seed and the trials alone, whatever process asks: a search that was cut off and resumed asks
    the same questions as one that was not.
    """
    if not trials:
        return {name: dimension.default for name, dimension in space.items()}
    ranges = {name: dimension.range for name, dimension in space.items()}
    sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, "trial", len(trials)) % 2**32)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.create_trial(params=dict(trial.settings), distributions=ranges, value=trial.score)
        for trial in trials
        if trial.error is None
    )
    return study.ask(ranges).params


def _conclude(job: Job, trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    """Makes the run what its best trial is, tells plugins, and gives its result."""
    run, winner = job.run, RunFolder(best.folder)
    if winner.weights.is_file():  # else they were taken over and dropped before the search was cut off here
        run.take_over(winner)
    run.write_model(asdict(job.request), winner.read_model())
    result = {
        **winner.read("result"),
        "run": str(run.path),
        "trials": len(trials),
        "failed_trials": sum(trial.error is not None for trial in trials),
        "best_trial": best.number,
        "best_settings": best.settings,
        "search_seconds": sum(trial.seconds for trial in trials),
    }
    del result["schema"]  # of the trial's record, not a part of the result
    # All before the result, after which a resumed search has nothing left to do.
    tell_plugins(job.environment.catalogue.plugins, run.path, "done", result)
    drop_weights(best.folder)
    run.write("result", result)
    return run.read("result")
