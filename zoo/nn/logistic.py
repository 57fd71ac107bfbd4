"""Multinomial logistic regression on embeddings: the optimal linear head, its strength of regularisation chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.engine import generator
from zoo.progress import Task

L2_GRID: tuple[float, ...] = tuple(10 ** (exponent / 2) for exponent in range(2, -11, -1))
"""Strong to weak, so that each fit starts from its neighbour's solution."""
L2_UNTOLD = 1e-2
"""Used where nothing can be held out to choose by (one image per class)."""
_MAX_FOLDS = 5
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Logistic:
    """A linear classifier: logits = embeddings @ weight.T + bias; weight [C, D], bias [C]."""

    weight: Tensor
    bias: Tensor
    l2: float

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits [N, C] of embeddings [N, D]."""
        return F.linear(embeddings.to(self.weight.dtype), self.weight, self.bias)


def fit_logistic(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor] | None, *, classes: int, seed: int, task: Task
) -> Logistic:
    """The classifier that minimises cross entropy + l2/2 |W|^2 on `train` (embeddings [N, D], labels [N]).

    Embeddings are centred and divided by one common scale, so that `l2` means the same for every backbone. `l2` is
    the one of `L2_GRID` with the lowest cross entropy on `val`, or in stratified cross validation without `val`.
    """
    embeddings, labels = train[0].double(), train[1]
    mean = embeddings.mean(0)
    scale = (embeddings - mean).square().mean().sqrt().clamp_min(1e-12)
    scaled = (embeddings - mean) / scale
    if val is not None:
        scaled_val = ((val[0].double() - mean) / scale, val[1])
        splits = [((scaled, labels), scaled_val)]
    else:
        splits = _folds(scaled, labels, seed)
    l2 = _choose(splits, classes, task) if splits else L2_UNTOLD
    weight, bias = _solve(scaled, labels, classes, l2, None)
    weight = weight / scale
    return Logistic(weight, bias - weight @ mean, l2)


def _choose(splits: Sequence[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]], classes: int, task: Task) -> float:
    """The strength with the lowest mean held-out cross entropy, walking from strong to weak until it only rises."""
    starts: list[tuple[Tensor, Tensor] | None] = [None] * len(splits)
    best, best_loss, rising = L2_GRID[0], math.inf, 0
    for l2 in L2_GRID:
        loss = 0.0
        for number, ((embeddings, labels), (held_embeddings, held_labels)) in enumerate(splits):
            starts[number] = solution = _solve(embeddings, labels, classes, l2, starts[number])
            loss += float(F.cross_entropy(F.linear(held_embeddings, *solution), held_labels)) / len(splits)
        task.advance(1, f"l2 {l2:.0e} loss {loss:.3f}")
        if loss < best_loss:
            best, best_loss, rising = l2, loss, 0
        else:
            rising += 1
        if rising == _PATIENCE:
            break
    return best


def _solve(
    embeddings: Tensor, labels: Tensor, classes: int, l2: float, start: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    weight = start[0].clone() if start else embeddings.new_zeros(classes, embeddings.shape[1])
    bias = start[1].clone() if start else embeddings.new_zeros(classes)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(embeddings, weight, bias), labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def _folds(embeddings: Tensor, labels: Tensor, seed: int) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Stratified folds; as many as the smallest class has samples, five at most, none with fewer than two."""
    count = min(_MAX_FOLDS, int(torch.bincount(labels).min()))
    if count < 2:
        return []
    fold = torch.empty_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "folds", int(label)))]
        fold[rows] = torch.arange(len(rows)) % count
    return [
        ((embeddings[fold != k], labels[fold != k]), (embeddings[fold == k], labels[fold == k])) for k in range(count)
    ]
