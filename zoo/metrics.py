"""How good a classifier's probabilities are, in numbers with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 15


def classification_metrics(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy with its interval, calibration error, and precision and recall per class.

    `probabilities` is [N, C], `labels` [N]; N is at least 1.
    """
    predicted = probabilities.argmax(1)
    right = predicted == labels
    per_class = {}
    for number, name in enumerate(classes):
        called, are = predicted == number, labels == number
        hits = int((called & are).sum())
        per_class[name] = {
            "precision": hits / int(called.sum()) if called.any() else None,
            "recall": hits / int(are.sum()) if are.any() else None,
            "n": int(are.sum()),
        }
    return {
        "accuracy": float(right.mean()),
        "n": len(labels),
        "interval95": wilson_interval(int(right.sum()), len(labels)),
        "ece": calibration_error(probabilities.max(1), right),
        "per_class": per_class,
    }


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); unlike mean +- 2 se it holds near 0 and 1."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def calibration_error(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over 15 equal bins (Guo et al. 2017, eq. 3)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for number in range(_BINS):
        inside = bins == number
        if inside.any():
            error += float(inside.mean()) * abs(float(right[inside].mean()) - float(confidence[inside].mean()))
    return error
