"""The best linear head on fixed features: logistic regression of every strength at once, one chosen, calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import generator
from zoo.nn.logistic import Problems, solve
from zoo.progress import Task

Labelled = tuple[Tensor, Tensor]

L2_GRID: tuple[float, ...] = tuple(10 ** (exponent / 2) for exponent in range(2, -11, -1))
L2_UNTOLD = 1e-2
"""Used where nothing can be held out to choose by (one image per class)."""
STEPS = 2
"""What `fit_linear` reports to its task."""
_MAX_FOLDS = 5
_CHOICE_ROWS = 5_000
"""More training rows than these, of all views, are not needed to choose a strength by."""
_PROBLEM_NUMBERS = 2**24
"""Problems are solved together as long as their solutions hold no more numbers; some thirty copies are in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit:
    """A linear classifier: logits = features @ weight.T + bias; weight [C, D], bias [C], temperature within."""

    weight: Tensor
    bias: Tensor
    l2: float
    temperature: float
    held_out: Labelled | None
    """Logits and labels of what was held out to choose by, from a fit that had not seen it; None where nothing was."""

    def logits(self, features: Tensor) -> Tensor:
        """Logits [N, C] of features [N, D]."""
        return F.linear(features.to(self.weight.dtype), self.weight, self.bias)


def fit_linear(
    train: Labelled,
    val: Labelled | None,
    *,
    classes: int,
    seed: int,
    refit: bool,
    balance: bool = False,
    task: Task,
    widths: Sequence[int] | None = None,
) -> LinearFit:
    """The best calibrated linear classifier of features [N, V, D] in groups of `widths` (one group when None).

    There are V views of each sample. All are fitted, as so many samples; the first, which is what evaluation sees, is
    all that choices and calibration go by, and a view never helps to judge another one of the same sample.

    Minimises cross entropy + l2/2 |W|^2, `l2` being the one of `L2_GRID` with the lowest cross entropy on `val`, or
    without it in stratified cross validation; the temperature comes from the same logits. With `refit` the chosen
    problem is solved once more on training and validation samples together. Features are standardised by group, so
    that a strength means the same for every backbone. Of more than 5,000 training rows, so many choose the strength,
    which is then made weaker by as many times as there are more samples, so that it stays the same prior; the
    temperature comes from a fit to all but the held-out ones.

    `balance` makes classes count alike, however many samples each has: their log shares are taken off the bias (Menon
    et al. 2021, logit adjustment; for a linear head the same before and after fitting), and the mean over classes of
    the cross entropy chooses. Measured on flowers with 240 to 5 images per class, better than weighted samples.
    """
    mean, scale = standardise(train[0].double().flatten(0, 1), widths or [train[0].shape[2]])

    def scaled(labelled: Labelled) -> Labelled:
        return (labelled[0].double() - mean) / scale, labelled[1]

    seen, held_out = scaled(train), scaled(val) if val is not None else None
    trial = _trial(seen, held_out, classes, seed)
    task.advance(1, "strength of regularisation")
    l2, temperature, unseen, start = L2_UNTOLD, 1.0, None, None
    prior = log_shares(train[1], classes) if balance else torch.zeros(classes)
    if trial is not None:
        tried, truth = trial.logits - prior, trial.truth
        weight = 1 / torch.bincount(truth, minlength=classes).clamp_min(1) if balance else None
        # The plain loss chooses: after temperature scaling, stronger fits win that are right less often.
        number = int(torch.stack([F.cross_entropy(row, truth, weight) for row in tried]).argmin())
        l2, raw, start = L2_GRID[number], tried[number], trial.theta[number, :1].double()
        most = _most_to_choose_by(train[0], classes)
        l2 *= min(1.0, most / len(train[1]))
        # To the last digits: trials stop early, and of features that are hard to solve for they are far from done.
        if held_out is not None or len(train[1]) > most:
            rest, left_out = (seen, held_out) if held_out is not None else _leave_out(seen, seed)
            start = _solve_one(rest, classes, l2, start)
            raw, truth = _logits(left_out[0][:, 0], start)[0] - prior, left_out[1]
        temperature = fit_temperature(raw, truth)
        unseen = raw / temperature, truth
    if refit and held_out is not None:
        seen = torch.cat([seen[0], held_out[0]]), torch.cat([seen[1], held_out[1]])
        prior = log_shares(seen[1], classes) if balance else prior  # what was held out may have other shares
    theta = _solve_one(seen, classes, l2, start)[0]
    theta[:, -1] -= prior
    theta /= temperature
    task.advance()
    weight = theta[:, :-1] / scale
    return LinearFit(weight=weight, bias=theta[:, -1] - weight @ mean, l2=l2, temperature=temperature, held_out=unseen)


def log_shares(labels: Tensor, classes: int) -> Tensor:
    """The logarithm of each class's share [C] among labels [N], all classes being there."""
    return torch.bincount(labels, minlength=classes).float().div(len(labels)).log()


def standardise(features: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The means [D] of features [N, D], and what to divide by [D]: one common scale in each group of `widths`."""
    mean = features.mean(0)
    groups = (features - mean).split(list(widths), 1)
    scales = [group.square().mean().sqrt().clamp_min(1e-12).expand(group.shape[1]) for group in groups]
    return mean, torch.cat(scales)


@dataclass(frozen=True, slots=True)
class _Trial:
    """All strengths tried: logits [L, M, C] of samples that the fit has not seen, their labels [M], and the solutions
    [L, K, C, D + 1] of K folds."""

    logits: Tensor
    truth: Tensor
    theta: Tensor


def _trial(seen: Labelled, held_out: Labelled | None, classes: int, seed: int) -> _Trial | None:
    """Every strength, tried on `held_out` or else in cross validation; None where nothing can be left out."""
    # Single precision: the choice between strengths does not hang on the seventh digit.
    features, labels = seen[0].float(), seen[1]
    if len(labels) > (most := _most_to_choose_by(features, classes)):
        rows = stratified(labels, most, seed, "rows to choose by")
        features, labels = features[rows], labels[rows]
    grid = features.new_tensor(L2_GRID)
    if held_out is not None:
        theta = _solve_all(features, labels, classes, features.new_ones(1, len(labels)), grid)
        return _Trial(_logits(held_out[0][:, 0].float(), theta[:, 0]), held_out[1], theta)
    folds = _folds(labels, seed)
    count = int(folds.max()) + 1
    if count < 2:
        return None
    theta = _solve_all(features, labels, classes, (folds != torch.arange(count)[:, None]).float(), grid)
    found = features.new_empty(len(grid), len(labels), classes)
    for fold in range(count):
        inside = folds == fold
        found[:, inside] = _logits(features[inside, 0], theta[:, fold])
    tested = folds >= 0
    return _Trial(found[:, tested], labels[tested], theta)


def _solve_all(features: Tensor, labels: Tensor, classes: int, weights: Tensor, grid: Tensor) -> Tensor:
    """Solutions [L, K, C, D + 1] for every strength in `grid` and every row of `weights` [K, N]."""
    each = len(weights) * classes * (features.shape[2] + 1)
    solutions = []
    for some in grid.split(max(1, _PROBLEM_NUMBERS // each)):
        strengths = some.repeat_interleave(len(weights))
        problems = _problems((features, labels), classes, weights.repeat(len(some), 1), strengths)
        solutions.append(solve(problems, iterations=60, tolerance=1e-4).view(len(some), len(weights), classes, -1))
    return torch.cat(solutions)


def _solve_one(samples: Labelled, classes: int, l2: float, start: Tensor | None) -> Tensor:
    """The solution [1, C, D + 1] for one strength, to the last digits that matter."""
    features, labels = samples
    problem = _problems(samples, classes, features.new_ones(1, len(labels)), features.new_tensor([l2]))
    return solve(problem, iterations=500, tolerance=1e-6, start=start)


def _problems(samples: Labelled, classes: int, weights: Tensor, l2: Tensor) -> Problems:
    """Logistic regressions on all views of `samples`, each with the weight [B, N] of its sample."""
    features, labels = samples
    views = features.shape[1]
    return Problems(
        features.flatten(0, 1), labels.repeat_interleave(views), classes, weights.repeat_interleave(views, 1), l2
    )


def _most_to_choose_by(features: Tensor, classes: int) -> int:
    """Of samples with features [N, V, D], so many are enough to choose a strength by."""
    return max(_CHOICE_ROWS // features.shape[1], classes)


def _logits(features: Tensor, theta: Tensor) -> Tensor:
    return torch.einsum("nd,lcd->lnc", features, theta[..., :-1]) + theta[:, None, :, -1]


def _folds(labels: Tensor, seed: int) -> Tensor:
    """The fold of each sample, stratified; as many as the largest class has samples, five at most.

    -1, in no fold, for the only sample of a class: nothing would be known of this class without it.
    """
    sizes = torch.bincount(labels)
    folds = _ranks(labels, seed, "folds") % min(_MAX_FOLDS, int(sizes.max()))
    return torch.where(sizes[labels] > 1, folds, -1)


def _leave_out(samples: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Four fifths of the samples to fit, and one to test."""
    features, labels = samples
    tested = _folds(labels, seed) == 0
    return (features[~tested], labels[~tested]), (features[tested], labels[tested])


def stratified(labels: Tensor, most: int, seed: int, purpose: str) -> Tensor:
    """At most so many rows [M] of samples with these labels [N]: of all classes alike, and at least one of each."""
    # By their place in their class, counted in its size.
    return (_ranks(labels, seed, purpose) / torch.bincount(labels)[labels]).argsort(stable=True)[:most]


def _ranks(labels: Tensor, seed: int, purpose: str) -> Tensor:
    """The place [N] of each sample among those of its class, in random order."""
    ranks = torch.zeros_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        ranks[rows] = torch.randperm(len(rows), generator=generator(seed, purpose, int(label))).argsort()
    return ranks
