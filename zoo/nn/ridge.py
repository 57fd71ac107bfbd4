"""Ridge regression onto class indicators in closed form, for many strengths at once, with exact leave-one-out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Of features [N, D] of rank K: squares of their singular values [K], and their left singular vectors [N, K]."""

    squares: Tensor
    left: Tensor

    @classmethod
    def of_gram(cls, gram: Tensor) -> Spectrum:
        """That of features with the inner products `gram` [N, N]."""
        return cls(*_eigen(gram))

    @classmethod
    def of(cls, features: Tensor) -> Spectrum:
        """That of features [N, D], from whichever of N x N and D x D is smaller."""
        if len(features) <= features.shape[1]:
            return cls.of_gram(features @ features.T)
        squares, right = _eigen(features.T @ features)
        return cls(squares, features @ right / squares.sqrt())


def left_out_scores(spectrum: Spectrum, labels: Tensor, classes: int, l2: Tensor) -> Tensor:
    """The class scores [L, N, C], about 1 for the right class, each sample gets from the solution fitted without it.

    `spectrum` is that of the centred features, `l2` [L] are the strengths: minimised is sum_n |y_n - W x_n - b|^2 +
    N l2 |W|^2. Leaving a sample out changes its residual by 1 / (1 - h), h being its leverage (Allen 1974, PRESS):
    exact, not an approximation.
    """
    count, squares, left = len(labels), spectrum.squares, spectrum.left
    targets = F.one_hot(labels, classes).to(left.dtype)
    level = targets.mean(0)
    shrunk = squares / (squares + count * l2[:, None])  # [L, K]
    fitted = left @ (shrunk.unsqueeze(2) * (left.T @ (targets - level))) + level
    leverage = shrunk @ left.square().T + 1 / count  # [L, N]
    left_out: Tensor = targets - (targets - fitted) / (1 - leverage).clamp_min(1e-9).unsqueeze(2)
    return left_out


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues [K] that differ from nought, and their vectors [N, K]."""
    values, vectors = torch.linalg.eigh(symmetric)
    significant = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return values[significant], vectors[:, significant]
