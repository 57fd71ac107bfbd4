"""Frozen means frozen, whatever is called."""

from __future__ import annotations

import pytest
import torch

from zoo.catalogue import Catalogue
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel, state_digest
from zoo.specs import ImageInput


@pytest.fixture
def network() -> TransferModel:
    entry, _ = Catalogue.installed({"tiny"}).find_backbone("tiny/glyphnet")
    torch.manual_seed(0)
    backbone = entry.spec.split(entry.spec.build())
    assert isinstance(backbone, Backbone)
    return TransferModel(backbone=backbone, head=torch.nn.Linear(112, 3), input_spec=ImageInput(height=32, width=32))


@pytest.mark.parametrize("stages", range(5))
def test_training_cannot_change_what_is_frozen(stages: int, network: TransferModel) -> None:
    network.freeze(stages)
    before = state_digest(network.frozen_modules())
    behind = [state_digest([stage]) for stage in network.backbone.stages[stages:]]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    for mode in (True, False, True):
        network.train(mode)
        loss = network(torch.randn(6, 3, 32, 32)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert state_digest(network.frozen_modules()) == before
    assert all(state_digest([s]) != old for s, old in zip(network.backbone.stages[stages:], behind, strict=True))
    assert all(p.grad is None for module in network.frozen_modules() for p in module.parameters())


def test_kept_statistics_with_trained_affines(network: TransferModel) -> None:
    network.freeze(0)
    network.keep_statistics = True
    network.train()
    norm = next(m for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    mean, weight = norm.running_mean.clone(), norm.weight.detach().clone()  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(6, 3, 32, 32) + 3).square().sum().backward()
    optimizer.step()
    assert torch.equal(norm.running_mean, mean)  # type: ignore[arg-type]
    assert not torch.equal(norm.weight, weight)


def test_digest_sees_every_bit_of_parameters_and_buffers() -> None:
    norm = torch.nn.BatchNorm2d(2)
    before = state_digest([norm])
    norm.num_batches_tracked += 1  # type: ignore[operator]
    assert state_digest([norm]) != before
