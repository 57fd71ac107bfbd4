"""What other trainings let one expect of a strategy, and what a comparison on the data itself makes of that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.catalogue.results import Result

REFERENCE: Literal["probe"] = "probe"
"""What strategies are compared with: it costs next to nothing."""
_UNKNOWN = 0.5
"""Standard deviation of the logarithm of the ratio of two error rates where nothing is known."""
_NEAR = math.log(2.5)
"""Results with so many times as many images per class, or as few, count by exp(-1/2)."""
_LEAST_ERROR = 0.002


@dataclass(frozen=True, slots=True)
class Expectation:
    """How a strategy's error rate compares with a probe's: a normal distribution of the logarithm of their ratio."""

    mean: float
    """Below 0 where the strategy makes fewer mistakes."""
    sd: float
    data_sets: int
    """So many data sets it was learnt from."""

    def error(self, probe: float) -> float:
        """The error rate to expect where a probe has the error rate `probe`."""
        return max(probe, _LEAST_ERROR) * math.exp(self.mean)

    def given(self, ours: NDArray[np.bool_], probe: NDArray[np.bool_]) -> Expectation:
        """After a look at which validation images [N] each of both gets right.

        The mistakes of both are counts of which a part is common, so that only the images about which they disagree
        tell them apart: the logarithm of their ratio has about the variance (b + c) / (errors x errors).
        """
        wrong, before = float((~ours).sum()) + 0.5, float((~probe).sum()) + 0.5
        seen, variance = math.log(wrong / before), (float((ours != probe).sum()) + 0.5) / (wrong * before)
        precision = 1 / self.sd**2 + 1 / variance
        mean = (self.mean / self.sd**2 + seen / variance) / precision
        return Expectation(mean, math.sqrt(1 / precision), self.data_sets)


def expect(results: Iterable[Result], strategy: str, per_class: float) -> Expectation:
    """What to expect of a strategy with so many images per class, from results on other data.

    Every data set counts alike, by how near its images per class are; nothing at all counts as one more data set on
    which the strategy is as good as a probe.
    """
    if strategy == REFERENCE:
        return Expectation(0.0, 1e-6, 0)
    ratios, weights, names = _ratios(list(results), strategy, per_class)
    total = sum(weights) + 1
    mean = sum(weight * ratio for weight, ratio in zip(weights, ratios, strict=True)) / total
    spread = sum(weight * (ratio - mean) ** 2 for weight, ratio in zip(weights, ratios, strict=True)) + _UNKNOWN**2
    return Expectation(mean, math.sqrt(spread / total), len(names))


def _ratios(results: Sequence[Result], strategy: str, per_class: float) -> tuple[list[float], list[float], set[str]]:
    """Logarithms of ratios of error rates, how much each counts, and the data sets they are of."""
    probes = {(each.task, each.backbone): each for each in results if each.strategy == REFERENCE}
    found: list[tuple[str, float, float]] = []
    for each in results:
        probe = probes.get((each.task, each.backbone))
        if each.strategy == strategy and probe is not None:
            near = math.exp(-0.5 * (math.log(each.per_class / per_class) / _NEAR) ** 2)
            ratio = math.log(max(1 - each.test_accuracy, _LEAST_ERROR) / max(1 - probe.test_accuracy, _LEAST_ERROR))
            found.append((each.data, ratio, near))
    # Of several backbones and sizes of one data set the nearest size decides how much all of it counts.
    most = {name: max(near for data, _, near in found if data == name) for name, _, _ in found}
    sums = {name: sum(near for data, _, near in found if data == name) for name in most}
    kept = [(ratio, near / sums[data] * most[data]) for data, ratio, near in found if sums[data] > 1e-6]
    return [ratio for ratio, _ in kept], [weight for _, weight in kept], {data for data in most if most[data] > 0.1}
