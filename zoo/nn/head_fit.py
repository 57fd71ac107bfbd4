"""The best head on frozen embeddings: one pass over the data, then only the head is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.nn.engine import derive_seed
from zoo.nn.logistic import L2_GRID, fit_logistic
from zoo.progress import Progress

_STEPS = 300
_LR = 2e-3
_WEIGHT_DECAY = 1e-2

Labelled = tuple[Tensor, Tensor]


def fit_head(
    head: nn.Module,
    *,
    train: Labelled,
    val: Labelled | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    progress: Progress,
) -> None:
    """Trains `head` in place on (embeddings [N, D], labels [N]).

    A lone linear layer is solved to its optimum (regularised logistic regression); any other head takes AdamW steps
    on the whole set at once.
    """
    if isinstance(head, nn.Linear):
        with progress.task("fitting the head", len(L2_GRID)) as task:
            best = fit_logistic(train, val, classes=head.out_features, seed=seed, task=task)
        with torch.no_grad():
            head.weight.copy_(best.weight)
            head.bias.copy_(best.bias)
        return
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LR, total_steps=_STEPS, pct_start=0.1)
    head.train()
    with progress.task("fitting the head", _STEPS) as task:
        for step in range(_STEPS):
            torch.manual_seed(derive_seed(seed, "head dropout", step))
            optimizer.zero_grad()
            value = loss(head(train[0]), train[1])
            value.backward()
            optimizer.step()
            schedule.step()
            task.advance(1)
