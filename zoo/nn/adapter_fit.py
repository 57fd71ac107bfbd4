"""The adapter of a chain in closed form: from one backbone's maps to the maps another one would have had there.

Ridge regression over positions, as in stitched networks (Lenc and Vedaldi 2015; Bansal et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.chain import Adapter
from zoo.specs import ImageInput

_RIDGE_GRID = tuple(10.0**exponent for exponent in range(-6, 1))
"""Strengths, beside the mean variance of a channel."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """What regression needs of rows x [N, X] and y [N, Y], added up in double precision."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    """Sums of squares [Y]."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Self:
        x, y = x.double(), y.double()
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.square().sum(0))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight [X, Y] and bias [Y] that minimise |x W + b - y|^2 / N + l2 |W|^2, l2 being `strength` times the mean
        variance of x."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - mean_x.outer(mean_x)
        l2 = strength * float(covariance.diagonal().mean()) + torch.finfo(torch.float64).tiny
        shrunk = covariance + l2 * torch.eye(len(mean_x), dtype=covariance.dtype, device=covariance.device)
        weight = torch.linalg.solve(shrunk, self.xy / self.count - mean_x.outer(mean_y))
        return weight, mean_y - mean_x @ weight

    def unexplained(self, weight: Tensor, bias: Tensor) -> float:
        """The squared error of x W + b, beside the variance of y."""
        cross = 2 * ((self.xy * weight).sum() + (self.y * bias).sum())
        fitted = ((self.xx @ weight) * weight).sum() + 2 * (self.x @ weight @ bias) + self.count * bias.square().sum()
        variance = (self.yy - self.y.square() / self.count).sum()
        return float((self.yy.sum() - cross + fitted) / variance.clamp_min(1e-12))


class AdapterFit:
    """The regression of one adapter, fed with batches."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._sums: dict[bool, _Sums] = {}

    def add(self, given: Tensor, wanted: Tensor, *, held_out: bool) -> None:
        """Maps of both backbones of the same images, each in its own layout; those given are resized where they are not
        as large as the wanted ones. What is held out chooses the strength."""
        x = given.permute(0, 3, 1, 2) if self._adapter.from_last else given
        y = wanted.permute(0, 3, 1, 2) if self._adapter.to_last else wanted
        if x.shape[2:] != y.shape[2:]:
            x = F.interpolate(x, y.shape[2:], mode="bilinear")
        found = _Sums.of(x.movedim(1, 3).flatten(0, 2), y.movedim(1, 3).flatten(0, 2))
        self._sums[held_out] = self._sums[held_out] + found if held_out in self._sums else found

    def finish(self) -> float:
        """Sets the adapter, and gives the share of the wanted maps' variance that it explains on what was held out."""
        seen, held_out = self._sums[False], self._sums.get(True, self._sums[False])
        errors = [held_out.unexplained(*seen.solve(strength)) for strength in _RIDGE_GRID]
        best = min(range(len(errors)), key=errors.__getitem__)
        weight, bias = (seen + held_out if True in self._sums else seen).solve(_RIDGE_GRID[best])
        with torch.no_grad():
            self._adapter.linear.weight.copy_(weight.T[:, :, None, None])
            assert self._adapter.linear.bias is not None
            self._adapter.linear.bias.copy_(bias)
        return 1 - errors[best]


def normalise_anew(adapter: Adapter, given: ImageInput, wanted: ImageInput) -> None:
    """Makes the adapter take images normalised in one way and give them normalised in another: nothing to fit."""
    scale = torch.tensor(given.std) / torch.tensor(wanted.std)
    shift = (torch.tensor(given.mean) - torch.tensor(wanted.mean)) / torch.tensor(wanted.std)
    with torch.no_grad():
        adapter.linear.weight.copy_(torch.diag(scale)[:, :, None, None])
        assert adapter.linear.bias is not None
        adapter.linear.bias.copy_(shift)
