"""The verb `cascade gate`: finished runs, the cheapest first, as one run that asks the next only where it must."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.artifacts.files import sha256_file, sha256_json
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.artifacts.versions import package_versions
from zoo.cascade.promise import Step, walk
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet, Sample, Split, trained_on
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, OnBadSample, check_images, labels
from zoo.errors import DataError, RunError, UsageError
from zoo.metrics import calibration_error
from zoo.nn.batches import Batches
from zoo.nn.build import load_run_model
from zoo.nn.calibrate import fit_temperature
from zoo.nn.cascade import Gate, Probabilities
from zoo.nn.composite import find_backbone
from zoo.nn.engine import Device, generator, make_fabric, place
from zoo.nn.inference import logits
from zoo.nn.model import TransferModel
from zoo.nn.surgery import drop_stages
from zoo.nn.weights import save_tensors
from zoo.progress import Progress
from zoo.runtime.threads import available_threads

_BATCH = 32
_CALIBRATION_SHARE = 0.2
"""Of the images that choose: temperatures are fitted on these, thresholds chosen on the others."""
_GAIN = 0.01
"""Answers are averaged over members where that is measured to be so much better: a much weaker one only disturbs."""

Choosing = Literal["val", "test", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRequest:
    """A gated cascade as asked for."""

    runs: tuple[Path, ...]
    """Finished runs, the cheapest first."""
    data: str
    max_loss: float = 1.0
    """Points of accuracy that may be lost against the last run alone."""
    split: Choosing = "val"
    """The images of `data` that choose; of these, those that no run was trained on."""
    seed: int | None = None
    """Splits data that has no test split of its own; that of the first run when None."""
    device: Device = "auto"
    threads: int | None = None
    on_bad_sample: OnBadSample = "fail"

    def __post_init__(self) -> None:
        if len(self.runs) < 2:
            raise UsageError("a gate needs two runs at least: the small one, then the big one")
        if not 0 < self.max_loss < 100:
            raise UsageError(f"--max-loss: {self.max_loss:g}; points of accuracy, more than 0 and less than 100")

    def to_json(self) -> dict[str, Any]:
        """The request as JSON values."""
        return {**asdict(self), "runs": [str(path) for path in self.runs]}


@dataclass(frozen=True, kw_only=True)
class _Member:
    run: RunFolder
    model: TransferModel
    record: ModelRecord
    macs: float
    """Of one image."""


def gate(request: GateRequest, out: Path, *, catalogue: Catalogue, cache: Path, progress: Progress) -> dict[str, Any]:
    """Makes the gated cascade of finished runs in the new run folder `out`, and gives its result record.

    Temperatures are fitted on a fifth of the images that choose; on the others the threshold is walked from strict to
    loose until the bound on what is lost against the last run alone reaches `max_loss`. Raises DataError where there
    are too few images for that promise, RunError where it cannot be kept or nothing is gained, UsageError where the
    runs do not go together.
    """
    began = time.monotonic()
    RunFolder.check_free(out)
    fabric = make_fabric(request.device, request.threads or available_threads())
    members = [_load(path, catalogue) for path in request.runs]
    _check_members(members)
    if request.seed is None:
        request = replace(request, seed=members[0].run.read("request")["request"]["seed"])
    data, choosing = _open(request, members, cache, progress)
    store = ImageStore(data)
    data, skipped = check_images(
        data,
        store,
        on_bad=request.on_bad_sample,
        threads=request.threads or available_threads(),
        progress=progress,
        every_class=False,
    )
    found = []
    for member in members:
        place(member.model, fabric)
        batches = Batches(data.samples, store=store, input_spec=member.record.input, batch_size=_BATCH)
        rows, _ = logits(member.model, batches, fabric=fabric, progress=progress)
        found.append(rows.double())
    truth = labels(data.samples)
    chooses = np.array([sample.file in choosing for sample in data.samples])
    calibrating = _calibrating(chooses, request.seed or 0)
    temperatures = [fit_temperature(rows[calibrating], torch.from_numpy(truth[calibrating])) for rows in found]
    probabilities = np.stack([_softmax(rows / t) for rows, t in zip(found, temperatures, strict=True)])
    judging = chooses & ~calibrating
    _check_order(members, probabilities[:, judging], truth[judging])
    average = _averaging_helps(probabilities[:, calibrating], truth[calibrating])
    steps = walk(probabilities[:, judging], truth[judging], max_loss=request.max_loss / 100, average=average)
    work = [_work(step, members) for step in steps]
    if work[-1] >= 1:
        raise RunError(
            f"nothing is gained: with the promise to lose at most {request.max_loss:g} points, "
            f"{steps[-1].exits[0]:.0%} of the images stop at the first run, and all take {work[-1]:.2f} of the work of "
            "the last run alone; give a larger --max-loss, more images or a smaller first run"
        )
    answers, exits = steps[-1].gate.follow(probabilities)
    # The splits as they were used: what judged the threshold, and what was only measured.
    parts: dict[Split, NDArray[np.bool_]] = {
        "val": judging,
        "test": np.array([s.split == "test" for s in data.samples]) & ~chooses,
    }
    kept = replace(
        data,
        samples=tuple(
            replace(sample, split=split)
            for split, rows in parts.items()
            for sample, there in zip(data.samples, rows, strict=True)
            if there
        ),
    )
    result = {
        "strategy": "gate",
        "backbone": " -> ".join(member.record.backbone for member in members),
        "threshold": steps[-1].gate.threshold,
        "average": average,
        "max_loss": request.max_loss,
        "loss_bound": 100 * steps[-1].bound,
        "images": int(judging.sum()),
        "calibration_images": int(calibrating.sum()),
        "work": work[-1],
        "walk": [
            {"threshold": s.gate.threshold, "accuracy": s.accuracy, "bound": s.bound, "exits": s.exits, "work": w}
            for s, w in zip(steps, work, strict=True)
        ],
        **_measured(answers, exits, probabilities, truth, parts, members),
        "fitted_splits": [],
        "seconds": time.monotonic() - began,
    }
    return _write(out, request, members, temperatures, kept, skipped, answers, parts, result)


def _load(path: Path, catalogue: Catalogue) -> _Member:
    run = RunFolder.open_complete(path)
    if run.members:
        raise UsageError(f"already a cascade: {path}; give the runs it was made of")
    model, record = load_run_model(run, catalogue)
    spec = drop_stages(find_backbone(catalogue, record.backbone).spec, record.drop_stages)
    area = record.input.height * record.input.width / (spec.input.height * spec.input.width)
    return _Member(run=run, model=model, record=record, macs=spec.macs * area)


def _check_members(members: Sequence[_Member]) -> None:
    """Raises UsageError where the runs are of different classes, or not in order."""
    first = members[0]
    for before, member in pairwise(members):
        if member.record.classes != first.record.classes:
            odd = sorted(set(member.record.classes) ^ set(first.record.classes))
            raise UsageError(
                f"runs of different classes: {first.run.path} and {member.run.path} ({', '.join(odd[:5])} in one of "
                "them only); give runs on the same classes"
            )
        if member.macs <= before.macs:
            raise UsageError(
                f"runs not in order: {member.run.path} takes {member.macs / 1e6:,.0f} million multiplications an "
                f"image, {before.run.path} before it {before.macs / 1e6:,.0f}; give the cheapest first"
            )


def _open(
    request: GateRequest, members: Sequence[_Member], cache: Path, progress: Progress
) -> tuple[DataSet, set[str]]:
    """The images that choose or are measured, and the files of those that choose. Raises DataError without any."""
    data = open_dataset(request.data, cache=cache, progress=progress, seed=request.seed or 0, for_training=False)
    known = members[0].record.classes
    if data.classes != known:
        odd = sorted(set(data.classes) ^ set(known))
        raise DataError(
            f"classes of {request.data} are not those of the runs: {', '.join(odd[:5])} in one of them only"
        )
    trained = set[str]().union(*(trained_on(member.run) for member in members))
    unseen = [sample for sample in data.samples if sample.sha256 not in trained]

    def chooses(sample: Sample) -> bool:
        return request.split == "all" or (sample.split == "test") == (request.split == "test")

    choosing = {sample.file for sample in unseen if chooses(sample)}
    if not choosing:
        raise DataError(
            f"no images to choose by: the runs were trained on all of {request.data} but the test split (the head of a "
            "probe is fitted on validation images, too); give other images, or --split test"
        )
    used = tuple(sample for sample in unseen if sample.file in choosing or sample.split == "test")
    return replace(data, samples=used), choosing


def _calibrating(chooses: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A random fifth of those that choose."""
    rows = np.flatnonzero(chooses)
    order = torch.randperm(len(rows), generator=generator(seed, "gate")).numpy()
    mask = np.zeros_like(chooses)
    mask[rows[order[: max(1, round(_CALIBRATION_SHARE * len(rows)))]]] = True
    return mask


def _softmax(found: Tensor) -> Probabilities:
    probabilities: Probabilities = found.softmax(1).numpy()
    return probabilities


def _check_order(members: Sequence[_Member], probabilities: Probabilities, truth: NDArray[np.int64]) -> None:
    """Raises RunError where the last run is no better than one before it."""
    accuracies = [float((words.argmax(1) == truth).mean()) for words in probabilities]
    for member, accuracy in zip(members[:-1], accuracies, strict=False):
        if accuracy >= accuracies[-1]:
            raise RunError(
                f"the big model is not better: {members[-1].run.path} is right about {accuracies[-1]:.1%} of "
                f"{len(truth)} images, {member.run.path} about {accuracy:.1%}; use that one alone"
            )


def _averaging_helps(probabilities: Probabilities, truth: NDArray[np.int64]) -> bool:
    """Whether the mean of all members is clearly better than the last one alone."""
    together, alone = probabilities.mean(0).argmax(1), probabilities[-1].argmax(1)
    return float((together == truth).mean() - (alone == truth).mean()) >= _GAIN


def _work(step: Step, members: Sequence[_Member]) -> float:
    """Multiplications of an image on average, beside those of the last member alone."""
    reached = 1 - np.cumsum((0.0, *step.exits[:-1]))
    costs = np.array([member.macs for member in members])
    return float((reached * costs).sum() / costs[-1])


def _measured(
    answers: Probabilities,
    exits: NDArray[np.int64],
    probabilities: Probabilities,
    truth: NDArray[np.int64],
    parts: Mapping[Split, NDArray[np.bool_]],
    members: Sequence[_Member],
) -> dict[str, Any]:
    """Accuracies and exits of the cascade and of its members on each part."""
    right = answers.argmax(1) == truth
    found: dict[str, Any] = {}
    for split, rows in parts.items():
        there = bool(rows.any())
        found[f"{split}_accuracy"] = float(right[rows].mean()) if there else None
        shares: Any = np.bincount(exits[rows], minlength=len(members)) / max(1, rows.sum())
        found[f"{split}_exits"] = shares.tolist() if there else None
    test = parts["test"]
    found["test_ece"] = calibration_error(answers[test].max(1), right[test]) if test.any() else None
    found["members"] = [
        {
            "run": str(member.run.path),
            "backbone": member.record.backbone,
            "input": [member.record.input.height, member.record.input.width],
            "macs": member.macs,
            **{
                f"{split}_accuracy": float((words.argmax(1) == truth)[rows].mean()) if rows.any() else None
                for split, rows in parts.items()
            },
        }
        for member, words in zip(members, probabilities, strict=True)
    ]
    return found


def _write(
    out: Path,
    request: GateRequest,
    members: Sequence[_Member],
    temperatures: Sequence[float],
    data: DataSet,
    skipped: Sequence[str],
    answers: Probabilities,
    parts: Mapping[Split, NDArray[np.bool_]],
    result: dict[str, Any],
) -> dict[str, Any]:
    """The run folder, which is there once it is whole."""

    def fill(run: RunFolder) -> None:
        for member, temperature in zip(members, temperatures, strict=True):
            copy = run.add_member(member.run)
            member.model.temperature.mul_(temperature)
            save_tensors(copy.weights, member.model.state_dict())
        run.write("request", {"request": request.to_json()})
        run.write("cascade", Gate(threshold=result["threshold"], average=result["average"]).to_json())
        run.write("environment", package_versions())
        run.write("dataset", {**data.to_json(), "skipped": list(skipped)})
        run.write_predictions({split: answers[rows].astype(np.float32) for split, rows in parts.items() if rows.any()})
        digest = sha256_json([sha256_file(member.weights) for member in run.members])
        run.write("result", {"run": str(out), **result, "weights_sha256": digest})

    return RunFolder.create_whole(out, fill).read("result")
