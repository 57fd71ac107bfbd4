"""Ridge regression onto class indicators in closed form, for many strengths at once, with exact leave-one-out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def left_out_scores(gram: Tensor, labels: Tensor, classes: int, l2: Tensor) -> Tensor:
    """The class scores [L, N, C], about 1 for the right class, each sample gets from the solution fitted without it.

    `gram` [N, N] holds the inner products of all pairs of centred feature vectors, `l2` [L] the strengths: minimised is
    sum_n |y_n - W x_n - b|^2 + N l2 |W|^2. Leaving a sample out changes its residual by 1 / (1 - h), h being its
    leverage (Allen 1974, PRESS): exact, not an approximation.
    """
    count = len(labels)
    targets = F.one_hot(labels, classes).to(gram.dtype)
    level = targets.mean(0)
    squares, left = torch.linalg.eigh(gram)
    significant = squares > squares[-1] * count * torch.finfo(gram.dtype).eps
    squares, left = squares[significant], left[:, significant]
    shrunk = squares / (squares + count * l2[:, None])  # [L, K]
    fitted = left @ (shrunk.unsqueeze(2) * (left.T @ (targets - level))) + level
    leverage = shrunk @ left.square().T + 1 / count  # [L, N]
    left_out: Tensor = targets - (targets - fitted) / (1 - leverage).clamp_min(1e-9).unsqueeze(2)
    return left_out
