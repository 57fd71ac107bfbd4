"""Decoded images, each read once and kept in memory while they fit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.dataset import DataSet, Sample
from zoo.data.images import decode_image
from zoo.data.parallel import map_ahead
from zoo.errors import DataError
from zoo.progress import Progress

OnBadSample = Literal["fail", "skip"]

BUDGET_BYTES = 2 * 1024**3
_AHEAD = 8


class ImageStore:
    """RGB pixels of samples by their file; at most `budget` bytes are kept, the rest is decoded each time.

    An image whose short side has twice `enough` pixels or more is kept scaled down to fewer, so that photographs as
    cameras make them have room, too. Safe to use from several threads.
    """

    def __init__(self, dataset: DataSet, *, enough: int | None = None, budget: int = BUDGET_BYTES) -> None:
        self._dataset = dataset
        self._enough = enough
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._scaled: set[str] = set()
        self._room = budget
        self._lock = Lock()

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """Pixels [H, W, 3] of one sample as they are in its file. Raises DataError naming one that cannot be read."""
        kept = self._kept.get(sample.file)
        if kept is not None and sample.file not in self._scaled:
            return kept
        pixels = decode_image(self._dataset.path(sample))
        if kept is None:
            self._keep(sample, pixels)
        return pixels

    def reduced(self, sample: Sample) -> NDArray[np.uint8]:
        """The same, where there are far more than `enough` of them scaled down by a whole number."""
        kept = self._kept.get(sample.file)
        return kept if kept is not None else self._keep(sample, decode_image(self._dataset.path(sample)))

    def _keep(self, sample: Sample, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Keeps the reduced `pixels` if there is room, and gives them."""
        factor = min(pixels.shape[:2]) // self._enough if self._enough else 1
        if factor > 1:
            pixels = np.array(Image.fromarray(pixels).reduce(factor))
        with self._lock:
            if pixels.nbytes <= self._room and sample.file not in self._kept:
                if factor > 1:
                    self._scaled.add(sample.file)
                self._kept[sample.file] = pixels
                self._room -= pixels.nbytes
        return pixels


def check_images(
    dataset: DataSet,
    store: ImageStore,
    *,
    on_bad: OnBadSample,
    threads: int,
    progress: Progress,
    every_class: bool = True,
) -> tuple[DataSet, list[str]]:
    """The data set without unreadable files, and a message for each of those.

    Every image is decoded now (into `store`, as far as it has room), so that a bad one is found before training
    begins rather than in its ninth epoch. With `on_bad="fail"` the first bad file raises DataError; so does, with
    `every_class`, a class that has no training image left.
    """

    def fault(sample: Sample) -> str | None:
        try:
            store.pixels(sample)
        except DataError as error:
            return str(error)
        return None

    bad: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool, progress.task("decoding images", len(dataset.samples)) as task:
        faults = map_ahead(pool, fault, dataset.samples, _AHEAD * threads)
        for sample, found in zip(dataset.samples, faults, strict=True):
            if found is not None:
                if on_bad == "fail":
                    raise DataError(f"{found} (or leave such files out with --on-bad-sample skip)")
                bad[sample.file] = found
                progress.say(f"skipped: {found}")
            task.advance()
    kept = dataset.without(set(bad)) if bad else dataset
    if every_class:
        _check_classes(kept)
    return kept, list(bad.values())


def _check_classes(dataset: DataSet) -> None:
    present = {sample.label for sample in dataset.of("train")}
    for label, name in enumerate(dataset.classes):
        if label not in present:
            raise DataError(f"class without a readable training image: {name!r}; add images or remove the class")


def labels(samples: Sequence[Sample]) -> NDArray[np.int64]:
    """Labels [N] of samples."""
    return np.array([sample.label for sample in samples], np.int64)
