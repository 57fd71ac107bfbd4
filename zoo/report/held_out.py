"""The images a run never trained on, with what it made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet, Sample
from zoo.data.store import labels
from zoo.errors import RunError
from zoo.metrics import classification_metrics, confusion_matrix


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The samples of one split and the probabilities [N, C] a run gave them."""

    split: Literal["test", "val"]
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    probabilities: NDArray[np.float32]

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """Labels [N]."""
        return labels(self.samples)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class [N] of each sample."""
        best: NDArray[np.int64] = self.probabilities.argmax(1)
        return best

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """The probability [N] of that class."""
        highest: NDArray[np.float32] = self.probabilities.max(1)
        return highest

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What `zoo evaluate` says of this split."""
        return classification_metrics(self.probabilities, self.truth, self.classes)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts [C, C]: of the class in a row, called the class in a column."""
        return confusion_matrix(self.truth, self.predicted, len(self.classes))

    def most_confused(self, count: int) -> list[tuple[str, str, int, int]]:
        """Pairs of classes most often mistaken: what it is, what it was called, how often, of how many."""
        wrong = self.predicted != self.truth
        # From the mistakes alone: of thousands of classes, most pairs never occur.
        pairs, times = np.unique(np.stack([self.truth[wrong], self.predicted[wrong]], 1), axis=0, return_counts=True)
        of = np.bincount(self.truth)
        return [
            (self.classes[true], self.classes[called], int(often), int(of[true]))
            for (true, called), often in ((pairs[row], times[row]) for row in np.argsort(-times, kind="stable")[:count])
        ]

    def confident_mistakes(self, count: int) -> list[int]:
        """Numbers of the samples that are labelled wrongly with the highest confidence."""
        wrong = np.flatnonzero(self.predicted != self.truth)
        return [int(number) for number in wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]]


def read_held_out(run: RunFolder, data: DataSet) -> HeldOut:
    """The test images of a finished run, or its validation images where there are none.

    Raises RunError where the run has no predictions, or none that fit its data set.
    """
    splits = run.read_predictions()
    for split in ("test", "val"):
        if split in splits:
            found, samples = splits[split], data.of(split)
            if found.shape != (len(samples), len(data.classes)) or not np.isfinite(found).all():
                raise RunError(
                    f"predictions.npz of {run.path} does not fit its data set: {split} is {found.shape}, not "
                    f"({len(samples)}, {len(data.classes)}) probabilities; restore it or start the run again"
                )
            return HeldOut(split=split, classes=data.classes, samples=samples, probabilities=found)
    raise RunError(f"run held no images out: {run.path}; give its data a test split and start the run again")
