"""The terms beside the loss are what their papers say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.artifacts.runs import RunFolder
from zoo.finetune.objective import Objective, Relation, StartingPoint
from zoo.finetune.resolve import Environment
from zoo.finetune.surgical import relative_gradients
from zoo.nn.build import load_run_model
from zoo.nn.engine import make_fabric
from zoo.nn.inference import score_logits
from zoo.nn.model import TransferModel, state_digest


@pytest.fixture
def model(run: Path, environment: Environment) -> TransferModel:
    return load_run_model(RunFolder.open(run), environment.catalogue)[0]


def test_leaving_the_start_costs_and_the_head_is_drawn_to_zero(model: TransferModel) -> None:
    model.freeze(2)
    start = StartingPoint.of(model, 0.1)
    head = sum(float(value.detach().square().sum()) for value in model.head.parameters())
    assert float(start().detach()) == pytest.approx(0.05 * head, rel=1e-5)
    moved = next(model.backbone.stages[2].parameters())
    with torch.no_grad():
        moved += 0.5
        next(model.backbone.stages[0].parameters()).add_(0.5)  # frozen: nobody asks
    assert float(start().detach()) == pytest.approx(0.05 * (head + 0.25 * moved.numel()), rel=1e-4)


def test_the_relation_is_the_mean_source_probability_of_a_class() -> None:
    logits = torch.randn(6, 4)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    relation = Relation.of(logits, labels, 2, 2.3)
    torch.testing.assert_close(relation.probabilities[1], logits.softmax(1)[labels == 1].mean(0))
    expected = -(relation.probabilities[labels] * logits.log_softmax(1)).sum(1).mean()
    assert float(relation(logits, labels)) == pytest.approx(2.3 * float(expected), rel=1e-5)


def test_balance_makes_rare_classes_count_as_much() -> None:
    # Of two classes that cannot be told apart, 90 % and 10 %: the minimum is at equal logits, not at the prior's.
    labels = torch.tensor([0] * 90 + [1] * 10)
    bias = torch.zeros(2, requires_grad=True)
    objective = Objective(loss=F.cross_entropy, log_prior=torch.tensor([0.9, 0.1]).log())
    objective((bias.expand(100, 2), None), labels).backward()
    assert bias.grad is not None
    assert float(bias.grad.abs().max()) < 1e-6
    plain = torch.zeros(2, requires_grad=True)
    Objective(loss=F.cross_entropy)((plain.expand(100, 2), None), labels).backward()
    assert plain.grad is not None
    assert float(plain.grad[0]) == pytest.approx(-0.4, rel=1e-5)


def test_stages_learn_as_their_gradients_ask(model: TransferModel) -> None:
    model.freeze(0)
    before, fabric = state_digest([model]), make_fabric("cpu", 1)
    spec = model.preprocess.spec
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, spec.height, spec.width), torch.tensor([0, 1, 2, 0])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield images, labels

    found = relative_gradients(model, batches(), objective=Objective(loss=F.cross_entropy), fabric=fabric)
    F.cross_entropy(model.eval()(images), labels).backward()
    norms = []
    for stage in model.backbone.stages:
        gradient = math.sqrt(sum(float(value.grad.square().sum()) for value in stage.parameters()))  # type: ignore[union-attr]
        norms.append(gradient / math.sqrt(sum(float(value.detach().square().sum()) for value in stage.parameters())))
    assert found == pytest.approx([norm / max(norms) for norm in norms], rel=1e-3)
    assert state_digest([model]) == before


def test_what_a_better_model_has_more_of() -> None:
    truth = torch.tensor([0, 0, 0, 0, 1])
    calls = {"all the same": [0, 0, 0, 0, 0], "rare ones too": [0, 0, 1, 1, 1]}
    scores = {name: score_logits(F.one_hot(torch.tensor(found), 3).float(), truth) for name, found in calls.items()}
    assert (scores["all the same"].accuracy, scores["all the same"].mean_recall) == (pytest.approx(0.8), 0.5)
    assert (scores["rare ones too"].accuracy, scores["rare ones too"].mean_recall) == (pytest.approx(0.6), 0.75)
    assert scores["all the same"].merit(balance=False) > scores["rare ones too"].merit(balance=False)
    assert scores["all the same"].merit(balance=True) < scores["rare ones too"].merit(balance=True)
