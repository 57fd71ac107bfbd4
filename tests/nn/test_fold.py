"""BatchNorm made part of a convolution: the same numbers, the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.catalogue import Catalogue
from zoo.nn import fold
from zoo.nn.backbone import Backbone
from zoo.nn.fold import folded
from zoo.nn.model import TransferModel
from zoo.specs import ImageInput


def _with_statistics(backbone: Backbone) -> Backbone:
    """Statistics and affine parameters unlike those of a new network, in eval mode."""
    torch.manual_seed(0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 2)  # type: ignore[arg-type]
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
    return backbone.eval()


def _model(backbone: Backbone) -> TransferModel:
    model = TransferModel(backbone=backbone, head=nn.Identity(), input_spec=ImageInput(height=32, width=32))
    model.keep_statistics = True
    return model.eval()


def _outcome(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """The embeddings, and the gradient of every parameter."""
    backbone.zero_grad()
    embeddings = backbone(images)
    embeddings.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    return {"embeddings": embeddings.detach(), **gradients}


class _Counter(TorchDispatchMode):
    """Counts the BatchNorms that really compute something."""

    count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket is torch.ops.aten.native_batch_norm
        return func(*args, **(kwargs or {}))


def _calls_of_norms(backbone: Backbone, images: Tensor) -> int:
    counter = _Counter()  # type: ignore[no-untyped-call]
    with torch.no_grad(), counter:
        backbone(images)
    return counter.count


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where images are so small that it does not pay."""
    monkeypatch.setattr(fold, "_pays", lambda *_: True)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("name", "left"), [("resnet18", 0), ("mobilenet_v2", 0), ("efficientnet_b0", 0), ("densenet121", 62)]
)
def test_same_embeddings_and_gradients(name: str, left: int) -> None:
    spec = Catalogue.installed({"torchvision"}).find_backbone(f"torchvision/{name}")[0].spec
    torch.manual_seed(0)
    backbone = spec.split(spec.build())
    assert isinstance(backbone, Backbone)
    model = _model(_with_statistics(backbone))
    images = torch.randn(2, 3, 32, 32)
    expected = _outcome(backbone, images)
    norms = _calls_of_norms(backbone, images)
    with folded(model):
        with folded(model):
            found = _outcome(backbone, images)
        assert _calls_of_norms(backbone, images) == left
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
    assert _calls_of_norms(backbone, images) == norms
    again = _outcome(backbone, images)
    assert all(torch.equal(again[key], value) for key, value in expected.items())


class _Shared(nn.Module):
    """The convolution's output goes elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Any:
        outputs = self.convolution(images)
        return self.norm(outputs) + outputs


class _Untraceable(nn.Module):
    """Asks its input for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Any:
        return self.layers(images if images.max() > 0 else -images)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("stage", "left"),
    [
        (_Shared(), 1),
        (_Untraceable(), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)), 0),
    ],
)
def test_what_cannot_be_folded_runs_as_it_is(stage: nn.Module, left: int) -> None:
    backbone = Backbone(stages=[stage], pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    images = torch.randn(2, 3, 8, 8)
    expected = _outcome(backbone, images)
    with folded(_model(backbone)):
        assert _calls_of_norms(backbone, images) == left
        found = _outcome(backbone, images)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_statistics_that_change_are_left_alone() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = _model(Backbone(stages=[stage], pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    model.keep_statistics = False
    with folded(model):
        model.train()
        assert _calls_of_norms(model.backbone, torch.randn(2, 3, 8, 8)) == 1


@pytest.mark.parametrize(("size", "left"), [(2, 1), (16, 0)])
def test_small_maps_are_left_alone_since_there_are_more_weights_than_activations(size: int, left: int) -> None:
    stage = nn.Sequential(nn.Conv2d(64, 4, 1), nn.BatchNorm2d(4))
    model = _model(Backbone(stages=[stage], pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    with folded(model):
        assert _calls_of_norms(model.backbone, torch.randn(2, 64, size, size)) == left
