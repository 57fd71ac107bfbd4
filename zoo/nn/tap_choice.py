"""Whether the lower stages of a backbone tell more about a data set than its embedding alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zoo.nn.engine import generator
from zoo.nn.linear import L2_GRID, Labelled, standardise
from zoo.nn.ridge import Spectrum, left_out_scores

CHOICE_ROWS = 2_000
"""More training rows than these are not needed to choose by."""
_GAIN = 0.003


def choose_taps(train: Labelled, widths: Sequence[int], *, classes: int, seed: int) -> int:
    """How many taps, from the one below the embedding downwards, a linear head should see beside the embedding.

    `train` holds features [N, D] in groups of `widths`: the taps, bottom up, then the embedding. The taps stay out
    unless they raise the leave-one-out accuracy of ridge regression by .003 and by a standard error of the paired
    difference; of sets of taps as good to .003, the smallest is taken. After Evci et al. 2022 (Head2Toe), who select
    features of all layers with a group lasso.
    """
    features, labels = train
    if len(labels) > CHOICE_ROWS:
        rows = torch.randperm(len(labels), generator=generator(seed, "rows to choose taps by"))[:CHOICE_ROWS]
        features, labels = features[rows], labels[rows]
    grams = grams_from_the_top(features, widths)
    right = [left_out_right(Spectrum.of_gram(gram), labels, classes) for gram in grams]
    accuracy = [float(row.mean()) for row in right]
    best = max(accuracy)
    chosen = next(taps for taps, value in enumerate(accuracy) if value > best - _GAIN)
    return chosen if tells_more(right[chosen], right[0]) else 0


def grams_from_the_top(features: Tensor, widths: Sequence[int]) -> Iterator[Tensor]:
    """Inner products [N, N] of standardised features [N, D] in groups of `widths`: of the last group, then of ever more
    groups below it."""
    mean, scale = standardise(features, widths)
    gram = features.new_zeros(len(features), len(features))
    for group in reversed(((features - mean) / scale).split(list(widths), 1)):
        gram = gram + group @ group.T
        yield gram


def tells_more(right: Tensor, before: Tensor) -> bool:
    """Whether `right` [N], 1 for each right answer, is so clearly more often than `before` [N]: by .003 and by a
    standard error of the paired difference."""
    difference = right - before
    error = float(difference.std(correction=0)) / math.sqrt(len(difference))
    return float(difference.mean()) >= max(_GAIN, error)


def left_out_right(spectrum: Spectrum, labels: Tensor, classes: int) -> Tensor:
    """For each sample [N], 1 where the ridge solution fitted without it is right about it; at the best strength.

    `spectrum` is that of the centred features.
    """
    scores = left_out_scores(spectrum, labels, classes, spectrum.left.new_tensor(L2_GRID))
    error = (scores - torch.nn.functional.one_hot(labels, classes)).square().mean((1, 2))
    return (scores[int(error.argmin())].argmax(1) == labels).double()
