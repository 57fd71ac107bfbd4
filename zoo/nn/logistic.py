"""Multinomial logistic regression: many problems on the same features solved at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_MEMORY = 10
_ARMIJO = 1e-4
_HALVINGS = 12


@dataclass(frozen=True, slots=True)
class Problems:
    """B logistic regressions that share features [N, D] and labels [N].

    Problem b minimises sum_n w_bn CE_bn / sum_n w_bn + l2_b / 2 |W_b|^2: `weights` [B, N] are those of its samples
    (0 leaves one out, as a fold does), `l2` [B] its strength of regularisation.
    """

    features: Tensor
    labels: Tensor
    classes: int
    weights: Tensor
    l2: Tensor

    def loss_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [B] and their gradients at `theta` [B, C, D + 1], whose last column is the bias."""
        count, width = self.features.shape
        problems, classes = theta.shape[:2]
        flat = theta.reshape(problems * classes, width + 1)
        logits = torch.addmm(flat[:, -1], self.features, flat[:, :-1].T).view(count, problems, classes)
        log_p = logits.log_softmax(2)
        share = (self.weights / self.weights.sum(1, keepdim=True)).T  # [N, B]
        picked = log_p.gather(2, self.labels.view(-1, 1, 1).expand(-1, problems, 1)).squeeze(2)
        slopes = theta[..., :-1]
        loss = -(picked * share).sum(0) + self.l2 / 2 * slopes.square().sum((1, 2))
        error = log_p.exp_()
        error[torch.arange(count), :, self.labels] -= 1
        error *= share.unsqueeze(2)
        error = error.view(count, problems * classes)
        gradient = torch.empty_like(theta)
        gradient[..., :-1] = (error.T @ self.features).view(problems, classes, width) + self.l2.view(-1, 1, 1) * slopes
        gradient[..., -1] = error.sum(0).view(problems, classes)
        return loss, gradient

    def only(self, chosen: Tensor) -> Problems:
        """The problems marked in `chosen` [B]."""
        return replace(self, weights=self.weights[chosen], l2=self.l2[chosen])


def solve(problems: Problems, *, iterations: int, tolerance: float, start: Tensor | None = None) -> Tensor:
    """The minimisers [B, C, D + 1] of all problems, the bias last; searched from `start`, zeros when None.

    Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5) with one step length per problem, found by halving
    until it satisfies Armijo's condition. A problem is solved when its gradient has no component above `tolerance`, or
    when no step helps any more; the others go on without it.
    """
    shape = len(problems.l2), problems.classes, problems.features.shape[1] + 1
    theta = start if start is not None else problems.features.new_zeros(shape)
    solved = torch.empty_like(theta)
    number = torch.arange(len(theta))
    loss, gradient = problems.loss_and_gradient(theta)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    open_ = gradient.abs().amax((1, 2)) > tolerance
    for _ in range(iterations):
        if not open_.all():
            solved[number[~open_]] = theta[~open_]
            number, problems = number[open_], problems.only(open_)
            theta, loss, gradient = theta[open_], loss[open_], gradient[open_]
            history = [(step[open_], change[open_], inverse[open_]) for step, change, inverse in history]
        if not len(theta):
            break
        direction = -_inverse_hessian_times(gradient, history)
        slope = _dot(direction, gradient)
        length = torch.ones_like(loss) if history else 1 / gradient.flatten(1).norm(dim=1).clamp_min(1)
        for _ in range(_HALVINGS):
            moved = theta + _column(length) * direction
            new_loss, new_gradient = problems.loss_and_gradient(moved)
            short = new_loss > loss + _ARMIJO * length * slope
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        # Where no step helps, the problem has met the precision of its numbers: it stays where it is.
        better = new_loss < loss
        moved = torch.where(_column(better), moved, theta)
        new_gradient = torch.where(_column(better), new_gradient, gradient)
        step, change = moved - theta, new_gradient - gradient
        curvature = _dot(step, change)
        history.append((step, change, torch.where(curvature > 1e-12, 1 / curvature, 0)))
        del history[:-_MEMORY]
        theta, loss, gradient = moved, torch.minimum(loss, new_loss), new_gradient
        open_ = better & (gradient.abs().amax((1, 2)) > tolerance)
    solved[number] = theta
    return solved


def _inverse_hessian_times(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4), for every problem."""
    result = gradient.clone()
    kept = []
    for step, change, inverse in reversed(history):
        alpha = inverse * _dot(step, result)
        kept.append(alpha)
        result -= _column(alpha) * change
    if history:
        step, change, inverse = history[-1]
        scale = _dot(step, change) / _dot(change, change).clamp_min(1e-30)
        result *= _column(torch.where(inverse > 0, scale, 1.0))
    for (step, change, inverse), alpha in zip(history, reversed(kept), strict=True):
        result += _column(alpha - inverse * _dot(change, result)) * step
    return result


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((1, 2))


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
