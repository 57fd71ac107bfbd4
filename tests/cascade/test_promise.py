"""The promise of a gate: bounds that hold, and a walk that stops in time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoo.cascade.promise import images_needed, loss_bound, smallest_loss, walk
from zoo.errors import DataError, RunError
from zoo.nn.cascade import Gate


def _members(count: int, seed: int, *, small: float = 0.8, big: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [2, N, 3] of a small and a big model whose confidences are honest, and labels [N]."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, count)
    words = []
    for accuracy in (small, big):
        confidence = np.clip(random.beta(8 * accuracy, 8 * (1 - accuracy), count), 0.34, 0.999)
        right = random.random(count) < confidence
        said = np.where(right, truth, (truth + random.integers(1, 3, count)) % 3)
        rows = np.repeat(((1 - confidence) / 2)[:, None], 3, 1)
        rows[np.arange(count), said] = confidence
        words.append(rows)
    return np.stack(words), truth


def test_images_needed_is_the_first_number_that_suffices() -> None:
    for loss in (0.005, 0.01, 0.02, 0.1):
        needed = images_needed(loss)
        right = np.ones(needed, bool)
        assert loss_bound(right, right, gains=False) <= loss < loss_bound(right[1:], right[1:], gains=False)
    assert images_needed(0.01) == 299
    assert smallest_loss(299) == 0.01


def test_the_bound_of_few_images_is_that_of_clopper_and_pearson() -> None:
    right, reference = np.ones(300, bool), np.ones(300, bool)
    right[:3] = False
    assert loss_bound(right, reference, gains=False) == pytest.approx(0.0256, abs=1e-4)  # of 3 in 300, one-sided, 95 %
    reference[3:6], right[3:6] = False, True
    assert loss_bound(right, reference, gains=False) == pytest.approx(0.0256, abs=1e-4)
    assert loss_bound(right, reference, gains=True) < 0.0256
    assert loss_bound(~np.ones(5, bool), np.ones(5, bool), gains=False) == 1.0


def test_the_bound_of_many_images_counts_gains_too() -> None:
    right, reference = np.ones(4_000, bool), np.ones(4_000, bool)
    right[:40], reference[40:80] = False, False
    difference = reference.astype(float) - right
    expected = 1.645 * difference.std(ddof=1) / math.sqrt(4_000) + 3 / 4_000
    assert loss_bound(right, reference, gains=False) == pytest.approx(expected)


@pytest.mark.parametrize("average", [True, False])
def test_the_walk_goes_from_strict_to_loose_and_stops_in_time(average: bool) -> None:
    probabilities, truth = _members(900, 0)
    steps = walk(probabilities, truth, max_loss=0.03, average=average)
    thresholds = [step.gate.threshold for step in steps]
    assert thresholds == sorted(thresholds, reverse=True)
    assert all(step.bound <= 0.03 for step in steps)
    assert steps[0].exits == (0.0, 1.0), "the strictest threshold sends every image on"
    assert 0.05 < steps[-1].exits[0] < 1


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    ("count", "loss"), [(500, 0.02), (500, 0.05), pytest.param(2_000, 0.01, marks=pytest.mark.slow)]
)
def test_a_promise_is_rarely_broken(count: int, loss: float, average: bool) -> None:
    unseen, labels = _members(20_000, 12345)
    reference = unseen[-1].argmax(1) == labels
    broken, kept = 0, 0
    for seed in range(100):
        probabilities, truth = _members(count, seed)
        try:
            gate = walk(probabilities, truth, max_loss=loss, average=average)[-1].gate
        except RunError:
            continue
        right = gate.follow(unseen)[0].argmax(1) == labels
        broken += reference.mean() - right.mean() > loss
        kept += 1
    assert kept > 50
    assert broken <= 0.05 * kept


def test_too_few_images_are_told_with_the_number_it_takes() -> None:
    probabilities, truth = _members(200, 0)
    with pytest.raises(DataError, match=r"200 that choose the threshold; it takes 299 .* or --max-loss 1\.5"):
        walk(probabilities, truth, max_loss=0.01, average=True)


def test_a_promise_that_cannot_be_kept_is_refused() -> None:
    probabilities, truth = _members(900, 0, small=0.4)
    probabilities[0] = np.eye(3)[probabilities[0].argmax(1)]  # sure of everything, and mostly wrong
    with pytest.raises(RunError, match="cannot be promised: even when every image goes through all members"):
        walk(probabilities, truth, max_loss=0.01, average=True)


def test_three_members() -> None:
    probabilities = np.array(
        [
            [[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]],
            [[0.2, 0.8], [0.99, 0.01], [0.45, 0.55]],
            [[0.2, 0.8], [0.1, 0.9], [0.05, 0.95]],
        ]
    )
    answers, exits = Gate(threshold=0.75, average=True).follow(probabilities)
    assert exits.tolist() == [0, 1, 2]
    np.testing.assert_allclose(answers, [[0.9, 0.1], [0.795, 0.205], [1 / 3, 2 / 3]], atol=1e-6)
    answers, exits = Gate(threshold=0.75, average=False).follow(probabilities)
    assert exits.tolist() == [0, 1, 2]
    np.testing.assert_allclose(answers, [[0.9, 0.1], [0.99, 0.01], [0.05, 0.95]])
