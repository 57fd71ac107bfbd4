"""Whether the lower stages of a backbone tell more about a data set than its embedding alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.nn.engine import generator
from zoo.nn.linear import L2_GRID, Labelled, standardise
from zoo.nn.ridge import fit_ridge

_ROWS = 2_000
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
    if len(labels) > _ROWS:
        rows = torch.randperm(len(labels), generator=generator(seed, "rows to choose taps by"))[:_ROWS]
        features, labels = features[rows], labels[rows]
    count = len(widths) - 1
    right = []
    for taps in range(count + 1):
        kept = list(widths[count - taps :])
        right.append(_left_out_right(features[:, -sum(kept) :], labels, kept, classes))
    accuracy = [float(row.mean()) for row in right]
    best = max(accuracy)
    chosen = next(taps for taps in range(count + 1) if accuracy[taps] > best - _GAIN)
    difference = right[chosen] - right[0]
    error = float(difference.std(correction=0)) / math.sqrt(len(labels))
    return chosen if accuracy[chosen] - accuracy[0] >= max(_GAIN, error) else 0


def _left_out_right(features: Tensor, labels: Tensor, widths: Sequence[int], classes: int) -> Tensor:
    """For each sample [N], 1 where the ridge solution fitted without it is right about it; at the best strength."""
    mean, scale = standardise(features, widths)
    path = fit_ridge((features - mean) / scale, labels, classes, features.new_tensor(L2_GRID))
    targets = torch.nn.functional.one_hot(labels, classes)
    error = (path.left_out - targets).square().mean((1, 2))
    return (path.left_out[int(error.argmin())].argmax(1) == labels).double()
