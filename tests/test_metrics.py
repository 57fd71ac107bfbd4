"""Metrics against values worked out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.metrics import (
    calibration_error,
    calibration_error_by_chance,
    classification_metrics,
    confusion_matrix,
    reliability_bins,
)


def test_known_values() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]], np.float32)
    result = classification_metrics(probabilities, np.array([0, 0, 1, 1]), ("cat", "dog"))
    assert result["accuracy"] == 0.75
    assert result["n"] == 4
    # Wilson score interval of 3 in 4 (Newcombe 1998, method 3).
    assert result["interval95"] == pytest.approx((0.3006, 0.9544), abs=1e-4)
    rows = result["per_class"]
    assert rows["cat"]["precision"] == pytest.approx(2 / 3)
    assert rows["cat"]["recall"] == 1
    assert rows["dog"]["recall"] == 0.5
    assert rows["dog"]["recall_interval95"] == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert result["balanced_accuracy"] == 0.75
    assert result["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    # |.9-1|, |.8-1|, |.6-1|, |.7-0|, a bin each.
    assert result["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4, abs=1e-6)


def test_perfect_calibration_shows_what_chance_leaves() -> None:
    random = np.random.default_rng(1)
    for n, expected in ((100, 0.1), (10_000, 0.01)):
        confidence = random.uniform(0.4, 1.0, n)
        by_chance = calibration_error_by_chance(confidence)
        # 9 bins in use: each is off by sqrt(2 p (1 - p) / (pi n / 9)), p about .7.
        assert by_chance == pytest.approx(expected, rel=0.2)
        assert abs(calibration_error(confidence, random.random(n) < confidence) - by_chance) < by_chance


def test_confusion_counts_rows_of_truth() -> None:
    found = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_bins_hold_every_prediction_once() -> None:
    bins = reliability_bins(np.array([0.0, 0.05, 0.5, 1.0]), np.array([False, True, True, True]))
    assert [(round(row.low, 2), round(row.high, 2), row.n, row.right) for row in bins] == [
        (0.0, 0.07, 2, 1),
        (0.47, 0.53, 1, 1),
        (0.93, 1.0, 1, 1),
    ]
    assert bins[0].confidence == pytest.approx(0.025)
