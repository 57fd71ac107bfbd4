"""One trial of a search: a run of its own, trained with some settings and judged on validation images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.data.store import labels
from zoo.errors import PluginError, UsageError
from zoo.finetune.job import Job
from zoo.finetune.plan import make_plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import head_options
from zoo.finetune.space import with_settings
from zoo.nn.build import build_model
from zoo.progress import Progress


def try_settings(job: Job, settings: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """How good the search `job` is with these settings, as JSON values: `score`, `val_accuracy`, `seconds`, `error`.

    Trains into the run `folder`, or takes the run there to its end. `error` says why the settings make the training
    fail, where they do: they make no sense together, the head cannot be built with them, the memory of the GPU is too
    small. Raises all other errors: a lost image, weights that cannot be read or a full disk is no doing of the
    settings, and the search can go on once that is mended.
    """
    request, resolved = with_settings(job.request, settings), job.resolved
    run = _begun(job, request, folder)
    try:
        if not run.is_complete:
            record, weights = run.read_model(), resolved.weights
            replace(
                job,
                request=request,
                plan=make_plan(request, resolved.staged, resolved.input, job.data),
                model=build_model(resolved.backbone, resolved.head, record, weights=weights, seed=request.seed),
                progress=progress,
                run=run,
            ).finish()
    except (UsageError, PluginError, torch.OutOfMemoryError) as error:
        reason = str(error).partition("\n")[0]
        progress.say(f"failed: {reason}")
        return {"score": 0.0, "val_accuracy": 0.0, "seconds": 0.0, "error": reason}
    result = run.read("result")
    progress.say(f"validation accuracy {100 * result['val_accuracy']:.1f} %")
    found = {name: result[name] for name in ("val_accuracy", "seconds")}
    return {"score": _score(run, job.data, balance=request.balance), **found, "error": None}


def drop_weights(folder: Path) -> None:
    """Frees the room that the weights and checkpoints of a trial take; its records stay."""
    run = RunFolder(folder)
    for path in (run.weights, *run.checkpoint.glob("*")):
        path.unlink(missing_ok=True)


def _begun(job: Job, request: FinetuneRequest, folder: Path) -> RunFolder:
    """The run of a trial with its first records: new, or as a search that was cut off left it."""
    if (folder / "request.json").is_file():
        return RunFolder.open(folder)
    shutil.rmtree(folder, ignore_errors=True)  # cut off before all records were written
    run = RunFolder.create(folder)
    for name in ("environment", "dataset"):
        run.write(name, job.run.read(name))
    run.write_model(asdict(request), replace(job.run.read_model(), head_options=head_options(job.resolved, request)))
    return run


def _score(run: RunFolder, data: DataSet, *, balance: bool) -> float:
    """Validation accuracy and, between equals, the loss of calibrated probabilities, in one number: larger is better.

    With `balance` each class counts alike. All of the loss together counts for no more than one image.
    """
    found, truth = run.read_predictions()["val"], labels(data.of("val"))
    # fmax, for weights that are no numbers any more: no probability at all.
    probabilities = np.fmax(found[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
    loss = -float(np.log(probabilities, dtype=np.float64).mean())
    members = np.bincount(truth)
    share = 1 / members[truth] / np.count_nonzero(members) if balance else np.full(len(truth), 1 / len(truth))
    return float(((found.argmax(1) == truth) * share).sum() + share.min() / (1 + loss))
