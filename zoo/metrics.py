"""How good a classifier's probabilities are, in numbers with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 15
_DRAWS = 200


def classification_metrics(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy with its interval, calibration error, and precision and recall per class, with theirs.

    `probabilities` is [N, C], `labels` [N]; N is at least 1.
    """
    predicted = probabilities.argmax(1)
    right = predicted == labels
    matrix = confusion_matrix(labels, predicted, len(classes))
    hits, called, are = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    per_class = {}
    for name, hit, guess, member in zip(classes, hits.tolist(), called.tolist(), are.tolist(), strict=True):
        per_class[name] = {
            "precision": hit / guess if guess else None,
            "precision_interval95": wilson_interval(hit, guess) if guess else None,
            "recall": hit / member if member else None,
            "recall_interval95": wilson_interval(hit, member) if member else None,
            "n": member,
        }
    present = are > 0
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float((hits / are.clip(1))[present].mean()),
        "macro_f1": float((2 * hits / (called + are).clip(1))[present].mean()),
        "n": len(labels),
        "interval95": wilson_interval(int(right.sum()), len(labels)),
        "ece": calibration_error(probabilities.max(1), right),
        "ece_by_chance": calibration_error_by_chance(probabilities.max(1)),
        "per_class": per_class,
    }


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many images of each class (row) were called which class (column): counts [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); unlike mean +- 2 se it holds near 0 and 1."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference_interval(
    right: NDArray[np.bool_], reference: NDArray[np.bool_], z: float = 1.959964
) -> tuple[float, float]:
    """The 95 % interval of how much rarer `right` [N] is than `reference` [N], both about the same images.

    The Wald interval of matched pairs with half an observation added to each cell (Agresti and Min 2005, Simple
    improved confidence intervals for comparing matched proportions): it holds for few images, and where none differ.
    """
    lost, gained = int((reference & ~right).sum()) + 0.5, int((right & ~reference).sum()) + 0.5
    n = len(right) + 2
    half = z * math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
    return (lost - gained) / n - half, (lost - gained) / n + half


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The predictions whose confidence lies between `low` and `high`: how sure they were, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    """Their mean confidence."""
    right: int

    @property
    def accuracy(self) -> float:
        """The share of them that was right."""
        return self.right / self.n


def reliability_bins(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """The predictions in 15 equal bins of confidence, without the empty ones (Guo et al. 2017, section 2)."""
    numbers = _bin_numbers(confidence)
    return [
        ReliabilityBin(
            low=number / _BINS,
            high=(number + 1) / _BINS,
            n=int((numbers == number).sum()),
            confidence=float(confidence[numbers == number].mean()),
            right=int(right[numbers == number].sum()),
        )
        for number in sorted(set(numbers.tolist()))
    ]


def calibration_error(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, eq. 3)."""
    numbers = _bin_numbers(confidence)
    excess = np.bincount(numbers, right) - np.bincount(numbers, confidence)
    return float(np.abs(excess).sum() / len(right))


def calibration_error_by_chance(confidence: NDArray[np.floating[Any]]) -> float:
    """The calibration error to expect of perfect calibration: chance alone leaves it, the more the fewer answers.

    The mean of draws in which each answer is right with the probability that its confidence [N] says.
    """
    random = np.random.default_rng(0)
    draws = [calibration_error(confidence, random.random(len(confidence)) < confidence) for _ in range(_DRAWS)]
    return float(np.mean(draws))


def _bin_numbers(confidence: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    return np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
