"""The probe's head is the optimum scikit-learn finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from zoo.nn.logistic import L2_GRID, fit_logistic
from zoo.progress import Silent


def _blobs(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), per_class)
    centres = np.random.default_rng(0).normal(size=(4, 20))
    return torch.tensor(centres[labels] + random.normal(size=(len(labels), 20)) * 2).float(), torch.tensor(labels)


def test_same_optimum_as_scikit_learn() -> None:
    train, val = _blobs(30, 1), _blobs(200, 2)
    with Silent().task("", 1) as task:
        found = fit_logistic(train, val, classes=4, seed=0, task=task)
    losses = {}
    for l2 in L2_GRID:
        reference = LogisticRegression(C=1 / (l2 * len(train[0])), max_iter=5000, tol=1e-8)
        reference.fit(train[0].numpy(), train[1].numpy())
        losses[l2] = log_loss(val[1].numpy(), reference.predict_proba(val[0].double().numpy()))
    loss = float(torch.nn.functional.cross_entropy(found.logits(val[0]), val[1]))
    assert loss == pytest.approx(min(losses.values()), rel=0.02)


def test_one_sample_per_class_still_gives_a_head() -> None:
    train = _blobs(1, 1)
    with Silent().task("", 1) as task:
        found = fit_logistic(train, None, classes=4, seed=0, task=task)
    assert (found.logits(train[0]).argmax(1) == train[1]).all()
