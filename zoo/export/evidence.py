"""The images that other precisions are made and judged with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.data.dataset import DataSet, Sample
from zoo.data.store import ImageStore, labels
from zoo.errors import DataError
from zoo.runtime.model import Image

_CALIBRATION_IMAGES = 100


@dataclass(frozen=True, slots=True)
class Evidence:
    """Training images that show what values to expect, and validation images that show what is lost."""

    calibration: Sequence[Image]
    validation: Sequence[Sample]
    truth: NDArray[np.int64]
    """Classes [N] of the validation images, by their numbers in the model."""
    store: ImageStore
    side: int
    """That of images as the network takes them."""


def gather_evidence(data: DataSet, classes: Sequence[str], *, side: int) -> Evidence:
    """100 training images of `data`, of all classes alike, and its validation images.

    `side` is that of the network's input. Raises DataError where images are not there any more, where a class of the
    model has no training image, and where there are no validation images.
    """
    number = {name: label for label, name in enumerate(classes)}
    unknown = sorted(set(data.classes) - set(number))
    if unknown:
        raise DataError(f"classes the model does not know: {', '.join(unknown)} in {data.source}; give its own --data")
    chosen, validation = _of_all_classes(data, classes), data.of("val")
    if not validation:
        raise DataError(
            f"no validation images: {data.source}; they show what another precision loses: give --data with some, "
            "or train with --val-share"
        )
    missing = next((sample for sample in [*chosen, *validation] if not data.path(sample).is_file()), None)
    if missing is not None:
        raise DataError(f"image of the training is not there any more: {data.path(missing)}; give --data")
    store = ImageStore(data, enough=2 * side)
    truth = np.array([number[data.classes[label]] for label in labels(validation)], np.int64)
    return Evidence([store.reduced(sample) for sample in chosen], validation, truth, store, side)


def _of_all_classes(data: DataSet, classes: Sequence[str]) -> list[Sample]:
    """Training samples in turn from each class, those of a class from all over it."""
    share = -(-_CALIBRATION_IMAGES // len(classes))
    rows = []
    for name in classes:
        of_class = [sample for sample in data.of("train") if data.classes[sample.label] == name]
        if not of_class:
            raise DataError(f"no training image of class {name!r}: {data.source}; calibration needs all classes")
        rows.append(of_class[:: max(1, len(of_class) // share)][:share])
    return [row[place] for place in range(share) for row in rows if place < len(row)]
