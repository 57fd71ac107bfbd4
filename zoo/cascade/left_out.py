"""What a finished run says of images; of those it was fitted on, what it would have said had it not seen them.

A head that learns from answers about training images would trust them too much: a model is nearly always right about
what it was fitted on (Wolpert 1992, "Stacked generalization").
"""

from __future__ import annotations

import csv
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.artifacts.files import sha256_file
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.data.dataset import DataSet, Sample, Split, trained_on
from zoo.data.store import ImageStore
from zoo.errors import DataError, RunError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune, open_sources
from zoo.finetune.sources import Sources
from zoo.nn.batches import Batches
from zoo.nn.build import load_run_model
from zoo.nn.engine import generator, make_fabric, place
from zoo.nn.head_fit import fit_head
from zoo.nn.inference import logits
from zoo.nn.linear import Labelled
from zoo.nn.model import TransferModel
from zoo.progress import Progress
from zoo.runtime.threads import available_threads

FOLDS = 5
_BATCH = 32
_FITTED: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a run says of some images."""

    logits: NDArray[np.float32]
    """[N, G]."""
    left_out: int
    """Of how many of them by a model that had not seen them, since the run itself was fitted on them."""


def said_unseen(
    path: Path, data: DataSet, request: FinetuneRequest, environment: Environment, progress: Progress
) -> Said:
    """What the run in `path` says of all images of `data`, in their order, none of them having been fitted on.

    Images that the run was fitted on are divided into five folds by the seed of `request`, stratified, and each is
    answered by a model like the run's that was fitted without its fold: the head of a linear probe is computed again,
    anything else is trained again as the run was. `request` also says where this is computed. Raises DataError where
    images it was fitted on are gone, RunError where its pretrained weights are others now, and the errors of
    `load_run_model` and `finetune`.
    """
    run = RunFolder.open_complete(path)
    model, record = load_run_model(run, environment.catalogue)
    trained = trained_on(run)
    seen = [sample.sha256 for sample in data.samples if sample.sha256 in trained]
    others = [sample for sample in data.samples if sample.sha256 not in trained]
    found = _left_out(path, model, seen, request, environment, progress) if seen else {}
    answers = _ask(model, record, others, data, request, progress)
    found |= zip((sample.sha256 for sample in others), answers, strict=True)
    rows = torch.stack([found[sample.sha256] for sample in data.samples])
    return Said(logits=rows.numpy(), left_out=len(seen))


def _ask(
    model: TransferModel,
    record: ModelRecord,
    samples: Sequence[Sample],
    data: DataSet,
    request: FinetuneRequest,
    progress: Progress,
) -> Tensor:
    """Logits [N, G] of samples of `data`."""
    if not samples:
        return torch.empty(0, len(record.classes))
    fabric = make_fabric(request.device, request.threads or available_threads())
    batches = Batches(samples, store=ImageStore(data), input_spec=record.input, batch_size=_BATCH)
    place(model, fabric)
    return logits(model, batches, fabric=fabric, progress=progress)[0]


def _left_out(
    path: Path,
    model: TransferModel,
    seen: Sequence[str],
    request: FinetuneRequest,
    environment: Environment,
    progress: Progress,
) -> dict[str, Tensor]:
    """Logits [G] of the images `seen`, by digest, each by a model that was fitted without its fold."""
    sources = open_sources(path, environment, progress, like=request)
    splits = sources.run.read("result")["fitted_splits"]
    fitted = [sample for sample in sources.data.samples if sample.split in splits]
    _check_there(path, sources, fitted, progress)
    folds = _folds(path, sources.data, fitted, request.seed)
    asked = sorted({folds[digest] for digest in seen})
    if sources.request.strategy == "probe" and isinstance(model.head, nn.Linear):
        progress.say(
            f"{path} was fitted on {len(seen)} of these images: its head is computed {len(asked)} times more, each "
            f"time without a fifth of its own"
        )
        return dict(_by_probes(sources, folds, asked))
    progress.say(
        f"{path} was fitted on {len(seen)} of these images: it is trained {len(asked)} times more, each time without a "
        f"fifth of its own; it took {sources.run.read('result')['seconds']:.0f} s"
    )
    found = dict[str, Tensor]()
    for fold in asked:
        found |= _by_training(sources, fitted, folds, fold, environment, progress)
    return found


def _check_there(path: Path, sources: Sources, fitted: Sequence[Sample], progress: Progress) -> None:
    """Raises DataError or RunError where what the run was made from is not there any more."""
    record = sources.run.read_model()
    if sources.resolved.record(record.classes, {}).weights_sha256 != record.weights_sha256:
        raise RunError(
            f"pretrained weights of {path} have changed since: {record.weights}; restore them or train it again"
        )
    with progress.task("checking files", len(fitted)) as task:
        for sample in fitted:
            file = sources.data.path(sample)
            if not file.is_file() or sha256_file(file) != sample.sha256:
                raise DataError(
                    f"image that {path} was trained on is gone or has changed: {file}; restore it or train that run "
                    "again: the new model learns from answers about images that it had not seen"
                )
            task.advance()


def _folds(path: Path, data: DataSet, fitted: Sequence[Sample], seed: int) -> dict[str, int]:
    """The fold of each image by its digest, so that copies of an image are left out together; stratified."""
    groups = defaultdict[tuple[Split, int], dict[str, None]](dict)
    known = set[str]()
    for sample in sorted(fitted, key=lambda sample: _FITTED.index(sample.split)):
        if sample.sha256 not in known:
            groups[sample.split, sample.label][sample.sha256] = None
            known.add(sample.sha256)
    folds = dict[str, int]()
    for (split, label), digests in groups.items():
        if split == "train" and len(digests) < 2:
            raise DataError(
                f"class with one training image: {data.classes[label]!r} of {path}; nothing would be known of it "
                "without this one; train that run on more images"
            )
        order = torch.randperm(len(digests), generator=generator(seed, "left out", split, label)).tolist()
        folds |= {digest: rank % FOLDS for digest, rank in zip(digests, order, strict=True)}
    return folds


def _by_probes(sources: Sources, folds: Mapping[str, int], asked: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """Digests and logits [G] of all images in the folds `asked`, by heads that were fitted without that fold."""
    taps, views = len(sources.run.read_model().taps), sources.plan.probe_views
    samples = {split: sources.data.of(split) for split in _FITTED}
    features = {split: sources.features(split, taps=taps, views=views) for split in _FITTED if samples[split]}
    places = {split: torch.tensor([folds[s.sha256] for s in samples[split]]) for split in features}
    for fold in asked:
        rest = {split: _rows(features[split], places[split] != fold) for split in features}
        head = nn.Linear(features["train"][0].shape[2], len(sources.data.classes))
        fit_head(
            head,
            train=rest["train"],
            val=rest["val"] if "val" in rest and len(rest["val"][1]) else None,
            loss=sources.resolved.head.spec.loss,
            seed=sources.request.seed,
            refit=True,
            balance=sources.plan.balance,
            progress=sources.progress,
            widths=sources.widths(taps),
        )
        for split in features:
            inside = (places[split] == fold).nonzero().flatten().tolist()
            with torch.no_grad():
                found = head(features[split][0][inside, 0])
            yield from zip((samples[split][row].sha256 for row in inside), found, strict=True)


def _rows(labelled: Labelled, chosen: Tensor) -> Labelled:
    return labelled[0][chosen], labelled[1][chosen]


def _by_training(
    sources: Sources,
    fitted: Sequence[Sample],
    folds: Mapping[str, int],
    fold: int,
    environment: Environment,
    progress: Progress,
) -> dict[str, Tensor]:
    """Logits [G] of the images of one fold, by digest, by a model trained as the run was on the other ones."""
    data, left = sources.data, {digest for digest, number in folds.items() if number == fold}
    rows = [(sample, "test" if sample.sha256 in left else "train") for sample in fitted]
    rows += [(sample, "val") for sample in data.of("val") if sample.sha256 not in folds]
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "rest.csv", Path(folder) / "run"
        _write_table(table, data, rows)
        # The images were chosen and divided when the run was made.
        changes: dict[str, Any] = {"shots": None, "val_share": 0.0, "track_test": False, "compare_scratch": False}
        finetune(replace(sources.request, data=str(table), **changes), out, environment, progress)
        model, record = load_run_model(RunFolder.open_complete(out), environment.catalogue)
        samples = [sample for sample, split in rows if split == "test"]
        found = _ask(model, record, samples, data, sources.request, progress)
    return dict(zip((sample.sha256 for sample in samples), found, strict=True))


def _write_table(table: Path, data: DataSet, rows: Sequence[tuple[Sample, str]]) -> None:
    """A data set of images where they are; numbers for labels keep the classes in their order."""
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows([data.path(sample), sample.label, split] for sample, split in rows)
