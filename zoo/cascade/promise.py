"""How early a cascade may stop so that it loses no more accuracy than promised, by images it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from zoo.errors import DataError, RunError
from zoo.nn.cascade import Gate, Probabilities

_RISK = 0.05
"""A promise may be broken with this probability."""
_RISK_OF_GAINS = 0.01
"""The part of that risk which is spent on what is gained, where that is counted."""
_MANY = 1_000
"""From so many images on, the mean of differences is normal enough for a bound that also counts what is gained."""
_Z = 1.645
_GRID = np.linspace(12, -2, 141)
"""Log-odds of the thresholds that are tried, from strict to loose. They do not depend on the images: then a walk that
stops at the first failure keeps its risk however many are tried (fixed-sequence testing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One threshold of the walk, on the images that choose."""

    gate: Gate
    bound: float
    """Upper bound, with 95 % confidence, on the accuracy that is lost against the last member alone."""
    accuracy: float
    exits: tuple[float, ...]
    """The share of the images that stops at each member."""


def walk(probabilities: Probabilities, truth: NDArray[np.int64], *, max_loss: float, average: bool) -> list[Step]:
    """Thresholds that keep the promise, from strict to loose: the last one sends on the fewest images.

    `probabilities` [K, N, C] are what the members say of images with labels `truth` [N], `max_loss` the share of
    answers that may be lost. An averaged answer also loses and gains where every member is asked, so that gains are
    counted, too. Raises DataError where there are too few images for that promise, RunError where the
    members break it however strict the gate.
    """
    needed = images_needed(max_loss)
    if len(truth) < needed:
        raise DataError(
            f"too few images to promise a loss of at most {100 * max_loss:g} points: {len(truth)} that choose the "
            f"threshold; it takes {needed} of them at least, or --max-loss {100 * smallest_loss(len(truth)):.1f}"
        )
    steps = list[Step]()
    for step in _steps(probabilities, truth, average=average):
        if step.bound > max_loss:
            break
        steps.append(step)
    if not steps:
        raise RunError(
            f"a loss of at most {100 * max_loss:g} points cannot be promised: even when every image goes through all "
            f"members, up to {100 * step.bound:.1f} may be lost against the last one alone ({len(truth)} images); give "
            "more images, a larger --max-loss, or leave a member out"
        )
    return steps


def images_needed(max_loss: float) -> int:
    """The fewest images for which a promise can be kept: with so many, if not one answer is lost."""
    return math.ceil(math.log(_RISK) / math.log1p(-max_loss))


def smallest_loss(images: int) -> float:
    """The smallest promise that so many images can keep, rounded up to a tenth of a point."""
    share: float = 1 - _RISK ** (1 / images)
    return math.ceil(1_000 * share) / 1_000


def loss_bound(right: NDArray[np.bool_], reference: NDArray[np.bool_], *, gains: bool) -> float:
    """An upper bound, with 95 % confidence, on how much rarer `right` [N] is than `reference` [N].

    Of few images an exact one, by Clopper and Pearson (1934): on the share of answers that are lost or, with `gains`,
    on this less the share that is gained, the risk being divided between the two. Of 1,000 and more the normal one on
    the mean difference, with 3 / N added for its skewness.
    """
    count = len(right)
    if count >= _MANY:
        difference = reference.astype(float) - right
        return float(difference.mean() + _Z * difference.std(ddof=1) / math.sqrt(count) + 3 / count)
    lost, gained = int((reference & ~right).sum()), int((right & ~reference).sum())
    if not gains:
        return _upper(lost, count, _RISK)
    return _upper(lost, count, _RISK - _RISK_OF_GAINS) - _lower(gained, count, _RISK_OF_GAINS)


def _upper(successes: int, count: int, risk: float) -> float:
    return float(beta.ppf(1 - risk, successes + 1, count - successes)) if successes < count else 1.0


def _lower(successes: int, count: int, risk: float) -> float:
    return float(beta.ppf(risk, successes, count - successes + 1)) if successes else 0.0


def _steps(probabilities: Probabilities, truth: NDArray[np.int64], *, average: bool) -> Iterator[Step]:
    reference = probabilities[-1].argmax(1) == truth
    for log_odds in (math.inf, *_GRID):
        gate = Gate(threshold=_sigmoid(log_odds), average=average)
        answers, exits = gate.follow(probabilities)
        right = answers.argmax(1) == truth
        shares: Any = np.bincount(exits, minlength=len(probabilities)) / len(truth)
        yield Step(
            gate=gate,
            bound=loss_bound(right, reference, gains=average),
            accuracy=float(right.mean()),
            exits=tuple(shares.tolist()),
        )


def _sigmoid(log_odds: float) -> float:
    """1 for infinity, which no rounded probability may reach: the strictest threshold lies above it."""
    return 2.0 if math.isinf(log_odds) else 1 / (1 + math.exp(-log_odds))
