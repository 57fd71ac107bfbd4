"""The verb `evaluate`: how well a run or an exported model does on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import Answer
from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet, Sample, trained_on
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, OnBadSample, check_images, labels
from zoo.errors import DataError, UsageError, did_you_mean
from zoo.metrics import classification_metrics
from zoo.progress import Progress
from zoo.runtime.model import OnnxModel
from zoo.runtime.samples import predict_samples
from zoo.runtime.session import Device
from zoo.runtime.threads import available_threads

_BATCH = 32


def evaluate(
    target: Path,
    data: str,
    *,
    split: Literal["test", "val", "train", "all"],
    catalogue: Catalogue,
    cache: Path,
    progress: Progress,
    seed: int | None = None,
    device: Device = "auto",
    threads: int | None = None,
    on_bad_sample: OnBadSample = "fail",
    head: str | None = None,
) -> dict[str, Any]:
    """Accuracy with its 95 % interval, calibration error, and precision and recall per class.

    `target` is a run folder or an exported model. By `seed`, that of the training when None, data without a test split
    of its own is split the same way. `head` is one of the further heads of a model. Raises DataError where the data has
    classes the model does not know, UsageError where the model has no such head.
    """
    model = None if target.is_dir() else OnnxModel(target, device=device, threads=threads, progress=progress)
    if model is None:
        if head is not None:
            raise UsageError(f"head of a run: {head!r}; runs have one head: leave --head out")
        of_training = int(RunFolder.open_complete(target).read("request")["request"]["seed"])
    else:
        of_training = _find_answer(model, head).seed
    seed = of_training if seed is None else seed
    dataset = open_dataset(data, cache=cache, progress=progress, seed=seed, for_training=False)
    dataset = _only(dataset, split)
    store = ImageStore(dataset)
    dataset, skipped = check_images(
        dataset,
        store,
        on_bad=on_bad_sample,
        threads=threads or available_threads(),
        progress=progress,
        every_class=False,
    )
    samples = dataset.samples
    if model is None:
        known, probabilities, seen = _by_run(target, samples, store, catalogue, device, threads, progress)
    else:
        answer = _find_answer(model, head)
        known, seen = answer.labels, None
        probabilities = predict_samples(model, samples, store, progress, output=answer.output)
    number = {name: label for label, name in enumerate(known)}
    unknown = sorted({dataset.classes[sample.label] for sample in samples} - set(number))
    if unknown:
        raise DataError(f"classes the model does not know: {', '.join(unknown)} in {data}; it knows {', '.join(known)}")
    truth = np.array([number[dataset.classes[label]] for label in labels(samples)], np.int64)
    result = classification_metrics(probabilities, truth, known)
    return {**result, "split": split, "skipped": len(skipped), "seen_in_training": seen}


def _find_answer(model: OnnxModel, head: str | None) -> Answer:
    """What a model says of its probabilities or, by its name, of those of a further head."""
    manifest = model.require_manifest("evaluate")
    if head is None:
        return manifest
    heads = {each.name: each for each in manifest.heads}
    if head not in heads:
        hint = did_you_mean(head, heads) or f"known: {', '.join(heads) or 'none'}"
        raise UsageError(f"no such head: {head!r} in {model.path}; {hint}")
    return heads[head]


def _only(dataset: DataSet, split: str) -> DataSet:
    chosen = dataset.samples if split == "all" else tuple(s for s in dataset.samples if s.split == split)
    if not chosen:
        raise DataError(f"no images in the {split} split: {dataset.source}; choose another --split")
    return replace(dataset, samples=chosen)


def _by_run(
    path: Path,
    samples: tuple[Sample, ...],
    store: ImageStore,
    catalogue: Catalogue,
    device: Device,
    threads: int | None,
    progress: Progress,
) -> tuple[tuple[str, ...], NDArray[Any], int]:
    """Classes, probabilities, and how many of the images the run was trained on."""
    from zoo.nn.batches import Batches
    from zoo.nn.cascade import load_cascade, load_members
    from zoo.nn.engine import make_fabric, place
    from zoo.nn.inference import logits

    run = RunFolder.open_complete(path)
    fabric = make_fabric(device, threads or available_threads())
    cascade, members, found = load_cascade(run), load_members(run, catalogue), []
    for model, record in members:
        batches = Batches(samples, store=store, input_spec=record.input, batch_size=_BATCH)
        place(model, fabric)
        rows, _ = logits(model, batches, fabric=fabric, progress=progress)
        found.append(rows)
    probabilities = cascade.combine([rows.numpy() for rows in found])[0] if cascade else found[0].softmax(1).numpy()
    trained = set[str]().union(*(trained_on(member) for member in run.members or [run]))
    seen = sum(sample.sha256 in trained for sample in samples)
    return members[-1][1].classes, probabilities, seen
