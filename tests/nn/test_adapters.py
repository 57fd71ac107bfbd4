"""Adapters: what they train, what they leave as it is, and that merging is exact."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import UsageError, ZooError
from zoo.nn.adapters import AdapterKind, Adapters, adaptable, adapter_params
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel
from zoo.specs import ImageInput

KINDS = get_args(AdapterKind)
WIDTH = 12


class _Block(nn.Module):
    """Two linear layers that are called, and one whose weight is only read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.read = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        read = nn.functional.linear(self.norm(tokens), self.read.weight)
        return tokens + self.down(nn.functional.gelu(self.up(read)))


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.patches(images).flatten(2).transpose(1, 2)
        return tokens


class _Mean(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def _model(*blocks: nn.Module) -> TransferModel:
    backbone = Backbone(stages=[_Tokens(), *blocks], pool=_Mean())
    return TransferModel(backbone=backbone, head=nn.Linear(WIDTH, 3), input_spec=ImageInput(height=16, width=16))


@pytest.fixture
def model() -> TransferModel:
    torch.manual_seed(0)
    return _model(_Block(), nn.Sequential(_Block(), _Block()))


def _train(model: TransferModel, images: Tensor) -> None:
    """One step of everything that takes a gradient."""
    model.train()
    model(images).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.05 * parameter.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_answer_as_the_adapters_did(kind: AdapterKind, model: TransferModel) -> None:
    images, names = torch.randn(4, 3, 16, 16), list(model.state_dict())
    before = model.eval()(images)
    adapters = Adapters(model, kind=kind, rank=2, seed=0)
    torch.testing.assert_close(model.eval()(images), before)  # they begin with nothing to say
    _train(model, images)
    trained = model.eval()(images)
    assert not torch.allclose(trained, before, atol=1e-3)
    adapters.merge()
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model.eval()(images), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_head_are_trained(kind: AdapterKind, model: TransferModel) -> None:
    pristine = copy.deepcopy(model.state_dict())
    Adapters(model, kind=kind, rank=2, seed=0)
    model.freeze(0)  # as the loop does, again and again
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or name.startswith("head.") for name in trained)
    backbone = [parameter for name, parameter in trained.items() if ".lora_" in name]
    assert sum(parameter.numel() for parameter in backbone) == sum(
        adapter_params(_model(_Block(), nn.Sequential(_Block(), _Block())), kind=kind, rank=2)
    )
    _train(model, torch.randn(4, 3, 16, 16))
    for name, value in model.backbone.state_dict().items():
        if ".lora_" not in name:
            torch.testing.assert_close(value, pristine[f"backbone.{name.replace('.base_layer.', '.')}"], rtol=0, atol=0)


def test_a_change_beside_the_adapters_is_found(model: TransferModel) -> None:
    adapters = Adapters(model, kind="lora", rank=2, seed=0)
    with torch.no_grad():
        model.backbone.get_parameter("stages.1.norm.weight")[0] += 1e-6
    with pytest.raises(ZooError, match="beside the adapters changed"):
        adapters.merge()


def test_layers_whose_weights_are_only_read_get_no_adapter(model: TransferModel) -> None:
    assert [name for name, _ in adaptable(model)][:2] == ["stages.1.up", "stages.1.down"]
    assert not [name for name, _ in adaptable(model) if name.endswith("read")]
    assert adapter_params(model, kind="lora", rank=2) == [0, 2 * 2 * 3 * WIDTH, 2 * 2 * 2 * 3 * WIDTH]


def test_the_same_seed_gives_the_same_adapters(model: TransferModel) -> None:
    other = copy.deepcopy(model)
    Adapters(model, kind="lora", rank=2, seed=3)
    torch.manual_seed(9)
    Adapters(other, kind="lora", rank=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_convolutions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"without linear layers: nothing to put adapters on; use --strategy"):
        adaptable(_model())
