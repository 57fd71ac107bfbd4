"""Temperature scaling: confidences that mean what they say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_RANGE = 3.0
_STEPS = 30


def fit_temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """The temperatures T [B], between e^-3 and e^3, that minimise the cross entropy of logits [B, N, C] / T.

    Guo et al. 2017, section 4.2, with a target of (N + 1) / (N + 2) instead of 1 for the right class (Platt 1999,
    section 2.2): that six images were all told right is no reason to be certain of the seventh. Cross entropy is convex
    in 1/T, so Newton's method on 1/T, kept within its bounds, finds the one minimum.
    """
    logits = logits.double()
    count, classes = logits.shape[1:]
    targets = torch.full((count, classes), 1 / (count + 2) / (classes - 1), dtype=torch.float64)
    targets[torch.arange(count), labels] = (count + 1) / (count + 2)
    wanted = (logits * targets).sum(2)
    inverse = logits.new_ones(len(logits))
    low, high = logits.new_full((2, len(logits)), math.exp(-_LOG_RANGE))
    high = 1 / high
    for _ in range(_STEPS):
        p = (logits * inverse.view(-1, 1, 1)).softmax(2)
        mean = (p * logits).sum(2)
        slope = (mean - wanted).mean(1)
        curvature = ((p * logits.square()).sum(2) - mean.square()).mean(1)
        # The minimum lies on the downhill side; where Newton would leave that bracket, halve it.
        low, high = torch.where(slope < 0, inverse, low), torch.where(slope > 0, inverse, high)
        newton = inverse - slope / curvature.clamp_min(1e-12)
        inside = (newton > low) & (newton < high)
        inverse = torch.where(inside, newton, (low * high).sqrt())
    return 1 / inverse
