"""Which backbones are worth asking: each one added must tell more than those that are there already."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.nn.engine import generator
from zoo.nn.linear import standardise
from zoo.nn.ridge import Spectrum
from zoo.nn.tap_choice import CHOICE_ROWS, left_out_right, tells_more


def select(
    features: Sequence[tuple[Tensor, Sequence[int]]],
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    costs: Sequence[float] | None = None,
    budget: float = math.inf,
) -> list[int]:
    """The backbones worth asking, the best first, by the features [N, D] of each in groups of so many.

    Forward selection: the one that raises the exact leave-one-out accuracy of ridge regression most comes next, as long
    as that is by .003 and by a standard error of the paired difference: it costs a pass over every image. All together
    cost at most `budget`, which one at least must not exceed alone.
    """
    rows = torch.arange(len(labels))
    if len(labels) > CHOICE_ROWS:
        rows = torch.randperm(len(labels), generator=generator(seed, "rows to choose backbones by"))[:CHOICE_ROWS]
    grams, truth = [_gram(found[rows].double(), widths) for found, widths in features], labels[rows]
    right = [left_out_right(Spectrum.of_gram(gram), truth, classes) for gram in grams]
    costs = costs if costs is not None else [0.0] * len(grams)
    affordable = [number for number, cost in enumerate(costs) if cost <= budget]
    best = max(affordable, key=lambda number: float(right[number].mean()))
    chosen, gram, known = [best], grams[best], right[best]
    while left := [
        number
        for number in affordable
        if number not in chosen and sum(costs[each] for each in (*chosen, number)) <= budget
    ]:
        tried = {number: left_out_right(Spectrum.of_gram(gram + grams[number]), truth, classes) for number in left}
        best = max(tried, key=lambda number: float(tried[number].mean()))
        if not tells_more(tried[best], known):
            break
        chosen, gram, known = [*chosen, best], gram + grams[best], tried[best]
    return chosen


def _gram(features: Tensor, widths: Sequence[int]) -> Tensor:
    """Inner products [N, N] of standardised features."""
    mean, scale = standardise(features, widths)
    scaled = (features - mean) / scale
    return scaled @ scaled.T
