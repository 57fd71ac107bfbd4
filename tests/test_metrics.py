"""Metrics against values worked out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.metrics import classification_metrics


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
    # |.9-1|, |.8-1|, |.6-1|, |.7-0|, a bin each.
    assert result["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4, abs=1e-6)
