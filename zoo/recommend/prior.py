"""What other trainings let one expect of a strategy and of a backbone, and what is seen on the data itself makes of
that."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
_LEAST_ERROR = 0.01
"""Error rates below are taken for this one: what a few hundred test images tell of lower ones is chance."""
_COUNTED = 0.1
_NO_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class Seen:
    """How many of some images a probe that has not learnt from them mistakes."""

    wrong: float
    images: int

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.wrong + other.wrong, self.images + other.images)


@dataclass(frozen=True, slots=True)
class Expectation:
    """How one error rate compares with another: a normal distribution of the logarithm of their ratio."""

    mean: float
    """Below 0 where the first is lower."""
    sd: float
    data_sets: int
    """So many data sets it was learnt from."""

    def error(self, other: float) -> float:
        """The first error rate where the second is `other`."""
        return other * math.exp(self.mean)

    def would_learn(self, other: float, images: int) -> bool:
        """Whether a look at so many validation images would tell more than is known, the second rate being `other`.

        Half of the mistakes are taken to be common.
        """
        wrong, before = self.error(other) * images + 0.5, other * images + 0.5
        return _variance((wrong + before) / 2, wrong, before) < self.sd**2

    def given(self, ours: NDArray[np.bool_], probe: NDArray[np.bool_], rest: Expectation) -> Expectation:
        """After a look at which validation images [N] each of both gets right, ours before its end; `rest` is how the
        error rate at the end compares with that.

        The mistakes of both are counts of which a part is common, so that only the images about which they disagree
        tell them apart.
        """
        wrong, before = float((~ours).sum()) + 0.5, float((~probe).sum()) + 0.5
        variance = _variance(float((ours != probe).sum()) + 0.5, wrong, before)
        return self.after(math.log(wrong / before) + rest.mean, variance + rest.sd**2)

    def after(self, seen: float, variance: float) -> Expectation:
        """After the logarithm of the ratio was `seen`, with an error of this variance."""
        precision = 1 / self.sd**2 + 1 / variance
        mean = (self.mean / self.sd**2 + seen / variance) / precision
        return Expectation(mean, math.sqrt(1 / precision), self.data_sets)


def _variance(disagreements: float, wrong: float, before: float) -> float:
    """Of the logarithm of the ratio of two counts of mistakes on the same images (delta method)."""
    return disagreements / (wrong * before)


def expect(results: Iterable[Result], strategy: str, backbone: str, per_class: float) -> Expectation:
    """How a strategy's error rate compares with that of a probe of the same backbone, with so many images per class,
    from results on other data: those of all backbones, and how this one, `<plugin>/<name>@<tag>`, departs from them.

    Some backbones gain more from training than others. Of one about which nothing is known the others tell all.
    """
    if strategy == REFERENCE:
        return Expectation(0.0, 1e-6, 0)
    results = list(results)
    probes = {(each.task, each.backbone): each for each in results if each.strategy == REFERENCE}
    tasks: dict[tuple[str, int], list[tuple[Result, float]]] = defaultdict(list)
    for each in results:
        if each.strategy == strategy and (each.task, each.backbone) in probes:
            tasks[each.task].append((each, _log_error(each) - _log_error(probes[each.task, each.backbone])))
    departures = [
        (each, ratio - statistics.fmean(other for _, other in found))
        for found in tasks.values()
        for each, ratio in found
        if each.backbone == backbone
    ]
    common = _learnt([row for found in tasks.values() for row in found], per_class)
    return replace(common, mean=common.mean + _learnt(departures, per_class).mean)


def expect_probes(results: Iterable[Result], backbones: Sequence[str], per_class: float) -> dict[str, Expectation]:
    """How the error rate of a probe of each of these backbones compares with the geometric mean of them all, with so
    many images per class, from results on other data."""
    tasks: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for each in results:
        if each.strategy == REFERENCE and each.backbone in backbones:
            tasks[each.task].append(each)
    ratios: dict[str, list[tuple[Result, float]]] = {name: [] for name in backbones}
    for found in tasks.values():
        if len(found) > 1:
            mean = statistics.fmean(map(_log_error, found))
            for each in found:
                ratios[each.backbone].append((each, _log_error(each) - mean))
    return {name: _learnt(found, per_class) for name, found in ratios.items()}


def pooled_errors(seen: Mapping[str, Seen], expected: Mapping[str, Expectation]) -> dict[str, float]:
    """Error rates of probes, as `seen` by backbone, drawn towards what is `expected` of each beside the others.

    Few images say little: the logarithm of an error rate e seen on N of them has about the variance (1 - e) / (e N).
    That of the rate itself is one number for the data, of which nothing is known before, plus what the backbone
    deviates from it by, of which `expected` is the prior (partial pooling; Gelman and Hill 2007, chapter 12).
    """
    rates = {name: (each.wrong + 0.5) / (each.images + 1) for name, each in seen.items()}
    variances = {name: (1 - rate) / (rate * seen[name].images) for name, rate in rates.items()}
    weights = {name: 1 / (variances[name] + expected[name].sd ** 2) for name in rates}
    common = sum(weights[name] * (math.log(rates[name]) - expected[name].mean) for name in rates)
    common /= sum(weights.values())
    return {
        name: math.exp(common + expected[name].after(math.log(rate) - common, variances[name]).mean)
        for name, rate in rates.items()
    }


def _log_error(result: Result) -> float:
    return math.log(max(1 - result.test_accuracy, _LEAST_ERROR))


def _learnt(ratios: Sequence[tuple[Result, float]], per_class: float) -> Expectation:
    """The mean of logarithms of ratios and its spread over data sets.

    Every data set counts alike, by how near its images per class are; nothing at all counts as one more data set on
    which both make as many mistakes.
    """
    near = [math.exp(-0.5 * (math.log(each.per_class / per_class) / _NEAR) ** 2) for each, _ in ratios]
    most: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for (each, _), weight in zip(ratios, near, strict=True):
        most[each.data] = max(most[each.data], weight)
        sums[each.data] += weight
    # Of several backbones and sizes of one data set the nearest size decides how much all of it counts.
    kept = [
        (ratio, weight / sums[each.data] * most[each.data])
        for (each, ratio), weight in zip(ratios, near, strict=True)
        if sums[each.data] > _NO_WEIGHT
    ]
    total = sum(weight for _, weight in kept) + 1
    mean = sum(weight * ratio for ratio, weight in kept) / total
    spread = sum(weight * (ratio - mean) ** 2 for ratio, weight in kept) + _UNKNOWN**2
    return Expectation(mean, math.sqrt(spread / total), sum(weight > _COUNTED for weight in most.values()))
