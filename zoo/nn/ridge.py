"""Ridge regression onto class indicators, in closed form for many strengths at once, with exact leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class RidgePath:
    """Solutions for L strengths: `weight` [L, C, D] and `bias` [L, C] give class scores, about 1 for the right class.

    `left_out` [L, N, C] are the scores each training sample gets from the solution fitted without it.
    """

    l2: Tensor
    weight: Tensor
    bias: Tensor
    left_out: Tensor


def fit_ridge(features: Tensor, labels: Tensor, classes: int, l2: Tensor) -> RidgePath:
    """All solutions for features [N, D] and strengths `l2` [L], from one eigendecomposition of the smaller Gram matrix.

    Minimises sum_n |y_n - W x_n - b|^2 + N l2 |W|^2. Leaving a sample out changes its residual by 1 / (1 - h), h being
    its leverage (Allen 1974, PRESS): exact, not an approximation.
    """
    count, width = features.shape
    mean = features.mean(0)
    centred = features - mean
    targets = F.one_hot(labels, classes).to(features.dtype)
    level = targets.mean(0)
    if width <= count:
        squares, right = torch.linalg.eigh(centred.T @ centred)
        squares, right = _significant(squares, right)
        left = centred @ right / squares.sqrt()
    else:
        squares, left = torch.linalg.eigh(centred @ centred.T)
        squares, left = _significant(squares, left)
        right = centred.T @ left / squares.sqrt()
    damped = squares + count * l2[:, None]  # [L, K]
    projected = left.T @ (targets - level)  # [K, C]
    fitted = torch.einsum("nk,lk,kc->lnc", left, squares / damped, projected) + level
    leverage = (squares / damped) @ left.square().T + 1 / count  # [L, N]
    left_out = targets - (targets - fitted) / (1 - leverage).clamp_min(1e-9).unsqueeze(2)
    weight = torch.einsum("dk,lk,kc->lcd", right, squares.sqrt() / damped, projected)
    return RidgePath(l2, weight, level - weight @ mean, left_out)


def _significant(squares: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    kept = squares > squares[-1] * len(squares) * torch.finfo(squares.dtype).eps
    return squares[kept], vectors[:, kept]
