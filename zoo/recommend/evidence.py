"""LogME: how likely labels are, given features, under a Bayesian linear model whose two variances are fitted."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.ridge import Spectrum

_ITERATIONS = 2000
_SETTLED = 1e-6
_SMALLEST = 1e-12


def log_evidence(features: Tensor, labels: Tensor, classes: int) -> float:
    """The largest log evidence per sample of features [N, D] for labels [N]: larger is better; a mean over classes.

    One class against the others is t ~ N(F w, 1/beta), w ~ N(0, 1/alpha), alpha and beta being those under which t is
    most likely; found by the fixed point of You et al. 2021 (LogME, algorithm 1). Their published code counts D
    dimensions of w, of which only as many as the features have rank say anything: it grows with every column of zeros.
    Here these are left out, so that the value is that of the definition for N < D, too. Classes count by the square
    root of their size.
    """
    present = torch.bincount(labels, minlength=classes)
    targets = F.one_hot(labels, classes).double()[:, present > 0].T  # [C, N]
    spectrum = Spectrum.of(features.double())
    along = (targets @ spectrum.left).square()
    found = _maximum(spectrum.squares, along, targets.square().sum(1), len(labels))
    weight = present[present > 0].double().sqrt()
    return float((found * weight).sum() / weight.sum())


def _maximum(squares: Tensor, along: Tensor, total: Tensor, count: int) -> Tensor:
    """The log evidence [C] at its maximum, of targets with squares [C, K] along the features and `total` [C] in all."""
    outside = (total - along.sum(1)).clamp_min(0)
    alpha = beta = torch.ones_like(total)
    for _ in range(_ITERATIONS):
        before = alpha / beta
        ratio = before[:, None]
        effective = (squares / (squares + ratio)).sum(1)
        weights = (squares * along / (squares + ratio).square()).sum(1).clamp_min(_SMALLEST)
        residual = ((along / (1 + squares / ratio).square()).sum(1) + outside).clamp_min(_SMALLEST)
        alpha, beta = effective / weights, (count - effective).clamp_min(_SMALLEST) / residual
        if bool(((alpha / beta - before).abs() <= _SETTLED * before).all()):
            break
    return (
        len(squares) / 2 * alpha.log()
        + count / 2 * beta.log()
        - (alpha[:, None] + beta[:, None] * squares).log().sum(1) / 2
        - beta / 2 * residual
        - alpha / 2 * weights
        - count / 2 * math.log(2 * math.pi)
    ) / count
