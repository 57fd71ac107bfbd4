"""The best head on frozen features: the backbone is not needed any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.nn.engine import derive_seed
from zoo.nn.linear import STEPS, Labelled, fit_linear, log_shares
from zoo.progress import Progress

_STEPS = 300
_LR = 2e-3
_WEIGHT_DECAY = 1e-2


def fit_head(
    head: nn.Module,
    *,
    train: Labelled,
    val: Labelled | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    refit: bool,
    balance: bool = False,
    progress: Progress,
    widths: Sequence[int],
) -> Labelled | None:
    """Trains `head` in place on (features [N, V, D] of V views in groups of `widths`, labels [N]).

    A lone linear layer is solved to its optimum and calibrated, with `refit` on the validation samples too, see
    `fit_linear`; any other head takes AdamW steps on all training samples at once, one view after the other. With
    `balance` classes count alike, however many samples each has. Gives logits and labels of the validation samples in
    their first view, from a head that has not seen them; None without validation samples.
    """
    if isinstance(head, nn.Linear):
        with progress.task("fitting the head", STEPS) as task:
            best = fit_linear(
                train,
                val,
                classes=head.out_features,
                seed=seed,
                refit=refit,
                balance=balance,
                task=task,
                widths=widths,
            )
        if best.held_out is None:
            progress.say("one image of each class: nothing to choose the regularisation by, or to calibrate")
        with torch.no_grad():
            head.weight.copy_(best.weight)
            head.bias.copy_(best.bias)
        return best.held_out if val is not None else None
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LR, total_steps=_STEPS, pct_start=0.1)
    head.train()
    with progress.task("fitting the head", _STEPS) as task:
        for step in range(_STEPS):
            torch.manual_seed(derive_seed(seed, "head dropout", step))
            found = head(train[0][:, step % train[0].shape[1]])
            value = loss(found + log_shares(train[1], found.shape[1]) if balance else found, train[1])
            value.backward()
            optimizer.step()
            optimizer.zero_grad()  # after the last step too: what is trained next must not inherit gradients
            schedule.step()
            task.advance(1)
    head.eval()
    with torch.no_grad():
        return (head(val[0][:, 0]), val[1]) if val is not None else None
