"""Which sample trains, which validates, which tests: stratified by class, decided by a seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zoo.artifacts.files import sha256_file
from zoo.data.dataset import DataSet, Sample, Split
from zoo.data.source import Listed, list_source
from zoo.errors import DataError
from zoo.progress import Progress

VAL_SHARE = 0.2
TEST_SHARE = 0.2
MIN_PER_CLASS_FOR_VAL = 10
"""With fewer training images of a class on average, holding some back costs more than it tells."""


def open_dataset(
    data: str,
    *,
    cache: Path,
    progress: Progress,
    seed: int = 0,
    shots: int | None = None,
    val_share: float | None = None,
    for_training: bool = True,
) -> DataSet:
    """The data set DATA with every sample in a split.

    Splits the source names are kept. Where it has no test split, a fifth of each class becomes one; where it has no
    validation split, `val_share` of each class does (None: a fifth where there are 10 training images or more for each
    class on average, else nothing). `shots` keeps that many training images per class, drawn by `seed`, before
    validation is split off.

    Raises DataError for an empty set and, unless `for_training` is False, one class, or a class too small to train on.
    """
    listing = list_source(data, cache, progress)
    classes = tuple(sorted({file.label for file in listing.files}, key=_natural))
    files = list(listing.files)
    if not any(file.split == "test" for file in files):
        files = _hold_out(files, "test", TEST_SHARE, seed)
    if for_training:
        _check(data, classes, files)
    if shots is not None:
        files = _keep_shots(files, shots, seed)
    if not any(file.split == "val" for file in files):
        per_class = sum(map(len, _by_class(files).values())) / max(1, len(classes))
        share = val_share if val_share is not None else VAL_SHARE if per_class >= MIN_PER_CLASS_FOR_VAL else 0.0
        files = _hold_out(files, "val", share, seed)
    number = {name: label for label, name in enumerate(classes)}
    samples = []
    with progress.task("reading files", len(files)) as task:
        for file in files:
            digest = sha256_file(listing.root / file.file)
            samples.append(Sample(file=file.file, label=number[file.label], split=file.split or "train", sha256=digest))
            task.advance()
    return DataSet(source=data, root=listing.root.resolve(), classes=classes, samples=tuple(samples))


def _by_class(files: Sequence[Listed]) -> dict[str, list[Listed]]:
    """The training files of each class."""
    groups: dict[str, list[Listed]] = defaultdict(list)
    for file in files:
        if file.split in (None, "train"):
            groups[file.label].append(file)
    return groups


def _hold_out(files: Sequence[Listed], split: Split, share: float, seed: int) -> list[Listed]:
    chosen: set[str] = set()
    for label, group in _by_class(files).items():
        names = _shuffled(group, seed, f"{split}:{label}")
        # At least one stays for training, and at least one is held out where there are two.
        count = min(len(names) - 1, max(1, round(len(names) * share))) if share > 0 else 0
        chosen.update(names[:count])
    return [replace(file, split=split) if file.file in chosen else file for file in files]


def _keep_shots(files: Sequence[Listed], shots: int, seed: int) -> list[Listed]:
    if shots < 1:
        raise DataError(f"shots: {shots}; at least 1 image per class")
    kept: set[str] = set()
    for label, group in _by_class(files).items():
        if len(group) < shots:
            raise DataError(f"class {label!r} has {len(group)} training images; --shots {shots} needs as many")
        kept.update(_shuffled(group, seed, f"shots:{label}")[:shots])
    return [file for file in files if file.split in ("val", "test") or file.file in kept]


def _shuffled(group: Sequence[Listed], seed: int, purpose: str) -> list[str]:
    names = sorted(file.file for file in group)
    random.Random(f"{seed}:{purpose}").shuffle(names)
    return names


def _check(data: str, classes: Sequence[str], files: Sequence[Listed]) -> None:
    if len(classes) < 2:
        raise DataError(f"one class only: {classes[0]!r} in {data}; a classifier needs two or more folders")
    groups = _by_class(files)
    if not groups:
        named = ", ".join(sorted({file.split for file in files if file.split}))
        raise DataError(f"no training images: {data} has only {named}; add a split named train")
    for name in classes:
        if name not in groups:
            raise DataError(f"class without training images: {name!r} in {data}; add images or remove the class")
        # Counted before shots are drawn: one image is no class, but one shot may be asked for.
        if sum(file.label == name for file in files) < 2:
            raise DataError(f"class with one image: {name!r} in {data}; add images or remove the class")


def _natural(name: str) -> tuple[int, int, str]:
    """Sorts 2 before 10, and numbers before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
