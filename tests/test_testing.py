"""The contract: an honest backbone passes, each lie is told with the true value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from zoo.nn.backbone import Backbone
from zoo.specs import BackboneSpec, ImageInput, StageSpec
from zoo.testing import check_backbone


def _stages() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
    ]


def _split(module: nn.Module) -> Backbone:
    assert isinstance(module, nn.Sequential)
    return Backbone(stages=list(module), pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def honest() -> BackboneSpec:
    return BackboneSpec(
        name="toy",
        family="toy",
        num_features=12,
        params=3 * 8 * 9 + 16 + 8 * 12 * 9 + 24,
        macs=3 * 8 * 9 * 256 + 8 * 12 * 9 * 64,
        build=lambda: nn.Sequential(*_stages()),
        split=_split,
        stages=(StageSpec(channels=8, stride=2), StageSpec(channels=12, stride=4)),
        weights=(),
        input=ImageInput(height=32, width=32),
    )


class Closed(nn.Module):
    """Remembers what the first stage saw."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.inner = nn.Conv2d(8, 12, 3, 2, 1)
        first.register_forward_hook(lambda module, args, out: self.seen.append(args[0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.seen[-1].mean()


class AlwaysDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class BatchMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class StubbornNorm(nn.BatchNorm2d):
    """Updates its statistics in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.running_mean += 0.01
        return super().forward(x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(40))

    def forward(self, x: Tensor) -> Tensor:
        return x


def _with(extra: Callable[[], nn.Module], at: int = 1) -> BackboneSpec:
    """The honest backbone with one more module at the beginning of a stage."""

    def build() -> nn.Module:
        stages = _stages()
        stages[at] = nn.Sequential(extra(), *stages[at])
        return nn.Sequential(*stages)

    return replace(honest(), build=build)


def _closed() -> BackboneSpec:
    def build() -> nn.Module:
        first = _stages()[0]
        return nn.Sequential(first, Closed(first))

    return replace(honest(), build=build)


LIES: dict[str, tuple[Callable[[], BackboneSpec], str]] = {
    "channels": (
        lambda: replace(honest(), stages=(StageSpec(channels=8, stride=2), StageSpec(channels=16, stride=4))),
        "stages[1].channels: 16 declared, the true value is 12",
    ),
    "stride": (
        lambda: replace(honest(), stages=(StageSpec(channels=8, stride=4), StageSpec(channels=12, stride=4))),
        "stages[0].stride: 4 declared, the true value is about 2.0",
    ),
    "stages": (
        lambda: replace(honest(), stages=(StageSpec(channels=8, stride=2),)),
        "stages: 1 declared, split gives 2",
    ),
    "num_features": (lambda: replace(honest(), num_features=13), "num_features: 13 declared, pool gives (3, 12)"),
    "params": (lambda: replace(honest(), params=5), "params: 5 declared, the true value is 1,120"),
    "macs": (lambda: replace(honest(), macs=9), "macs: 9 declared, the true value is 110,592"),
    "closed-over": (_closed, "a stage uses something other than the activation it is given"),
    "determinism": (lambda: _with(AlwaysDropout), "two passes in eval mode differ"),
    "batch": (lambda: _with(BatchMean), "an image's embedding depends on the others in its batch"),
    "in-place": (lambda: _with(InPlace), "stages[1] changes its input in place"),
    "freezing": (lambda: _with(lambda: StubbornNorm(3), 0), "training still changes them"),
    "gradients": (lambda: _with(Unused), "no gradient reaches stages.1.0.idle"),
    "build": (lambda: replace(honest(), build=lambda: 1 / 0), "build or split raises ZeroDivisionError"),
}


def test_honest_backbone_passes() -> None:
    assert check_backbone(honest(), deep=True) == []


@pytest.mark.parametrize("what", LIES)
def test_lie_is_found(what: str) -> None:
    make, message = LIES[what]
    findings = check_backbone(make())
    assert message in {finding.what: finding.message for finding in findings}.get(what, ""), findings
