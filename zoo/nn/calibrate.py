"""Temperature scaling: confidences that mean what they say."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_RANGE = 3.0
_STEPS = 30


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T, between e^-3 and e^3, that minimises the cross entropy of logits [N, C] / T.

    Guo et al. 2017, section 4.2, with a target of (N + 1) / (N + 2) instead of 1 for the right class (Platt 1999,
    section 2.2): that six images were all told right is no reason to be certain of the seventh. Cross entropy is convex
    in 1/T, so Newton's method on 1/T, kept within its bounds, finds the one minimum.
    """
    logits = logits.double()
    count, classes = logits.shape
    targets = torch.full_like(logits, 1 / (count + 2) / (classes - 1))
    targets[torch.arange(count), labels] = (count + 1) / (count + 2)
    wanted = (logits * targets).sum(1)
    inverse, low, high = 1.0, math.exp(-_LOG_RANGE), math.exp(_LOG_RANGE)
    for _ in range(_STEPS):
        p = (logits * inverse).softmax(1)
        mean = (p * logits).sum(1)
        slope = float((mean - wanted).mean())
        if slope == 0:  # there already, or logits that tell nothing
            break
        curvature = float(((p * logits.square()).sum(1) - mean.square()).mean())
        # The minimum lies on the downhill side; where Newton would leave that bracket, halve it.
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / max(curvature, 1e-12)
        inverse = newton if low < newton < high else math.sqrt(low * high)
    return 1 / inverse
