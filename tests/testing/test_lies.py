"""The contract catches every planted lie, with the line of the spec and the true value; its honest twin passes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
import zoo_heads
from torch import Tensor, nn

from zoo.nn.backbone import Backbone
from zoo.specs import BackboneSpec, HeadSpec, ImageInput, StageSpec, WeightsSpec
from zoo.testing import check_backbone, check_head

INPUT = ImageInput(height=32, width=32, size_divisor=4)
WEIGHTS = WeightsSpec(
    tag="v1", url="file:///v1.pth", sha256="0" * 8, pretrained_on="toys", license="MIT", input=INPUT, num_classes=7
)


class Net(nn.Module):
    """Two stages and a classifier, with an extra module at the beginning of one stage."""

    def __init__(self, extra: nn.Module | None = None, at: int = 1) -> None:
        super().__init__()
        extras = [extra or nn.Identity() if number == at else nn.Identity() for number in range(2)]
        self.one = nn.Sequential(extras[0], nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(extras[1], nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.classifier = nn.Linear(12, 7)


def _average() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _split(module: nn.Module, pool: Callable[[], nn.Module] = _average) -> Backbone:
    assert isinstance(module, Net)
    pooled = pool()
    return Backbone(stages=[module.one, module.two], pool=pooled, source_head=nn.Sequential(pooled, module.classifier))


def _honest() -> BackboneSpec:
    return BackboneSpec(
        name="toy",
        family="toy",
        num_features=12,
        params=3 * 8 * 9 + 16 + 8 * 12 * 9 + 24,
        macs=3 * 8 * 9 * 256 + 8 * 12 * 9 * 64,
        build=Net,
        split=_split,
        stages=(StageSpec(channels=8, stride=2), StageSpec(channels=12, stride=4)),
        weights=(WEIGHTS,),
        input=INPUT,
    )


def _with(extra: Callable[[], nn.Module], at: int = 1, params: int = 0) -> BackboneSpec:
    """The honest backbone with one more module of so many parameters at the beginning of a stage."""
    spec = _honest()
    return replace(spec, build=lambda: Net(extra(), at), params=spec.params + params)


def _pooled(pool: Callable[[], nn.Module]) -> BackboneSpec:
    return replace(_honest(), split=lambda module: _split(module, pool))


class Function(nn.Module):
    """A module that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class StubbornNorm(nn.BatchNorm2d):
    """Updates its statistics in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.running_mean += 0.01
        return super().forward(x)


class Offset(nn.Module):
    """Adds a parameter, or only has it."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset if self.used else x


class Noise(nn.Module):
    """Adds numbers that were drawn once, and are part of the state or not."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(1, 8, 1, 1), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x + self.get_buffer("noise")
        return shifted


class Remembers(nn.Module):
    """Adds the mean of the images that came into the first stage, or of its own input."""

    def __init__(self, first: nn.Module | None) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        if first is not None:
            first.register_forward_hook(lambda module, args, out: self.seen.append(args[0]))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.seen[-1] if self.seen else x).mean((1, 2, 3), keepdim=True)


def _remembering(first: bool) -> BackboneSpec:
    def build() -> nn.Module:
        net = Net()
        net.two[0] = Remembers(net.one if first else None)
        return net

    return replace(_honest(), build=build)


def _copying(module: nn.Module) -> Backbone:
    return _split(deepcopy(module))


def _tied(tied: bool) -> BackboneSpec:
    """Both stages begin with the same offset of one number, or each with its own."""

    def build() -> nn.Module:
        net = Net()
        for stage in (net.one, net.two):
            stage[0] = Function(lambda x: x)
            stage[0].scale = nn.Parameter(torch.ones(1))
            stage[0].function = lambda x, scaled=stage[0]: x * scaled.scale
        if tied:
            net.two[0] = net.one[0]
        return net

    spec = _honest()
    return replace(spec, build=build, params=spec.params + (1 if tied else 2))


def _flat(size: int | None) -> BackboneSpec:
    """The pool is a linear layer that takes maps of one size, or of any."""

    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.reshape(-1, 12, size * size) if size else x.flatten(2)).mean(2)

    return _pooled(Pool)


def _branching(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


@dataclass(frozen=True)
class Lie:
    """A spec that lies, its honest twin, and everything the contract should say about the lie."""

    told: BackboneSpec
    twin: BackboneSpec
    messages: tuple[str, ...]


def _lies() -> dict[str, Lie]:
    honest = _honest()
    one, two = honest.stages
    norm = nn.BatchNorm2d
    return {
        "channels": Lie(
            replace(honest, stages=(one, replace(two, channels=16))),
            honest,
            ("stages[1].channels: 16 declared, the true value is 12",),
        ),
        "stride": Lie(
            replace(honest, stages=(replace(one, stride=4), two)),
            honest,
            ("stages[0].stride: 4 declared, the true value is about 2.0",),
        ),
        "layout": Lie(
            replace(honest, stages=(one, replace(two, layout="NTC"))),
            honest,
            ("stages[1].layout: NTC declared, the activation is of shape (3, 12, 8, 8)",),
        ),
        "stages": Lie(replace(honest, stages=(one,)), honest, ("stages: 1 declared, split gives 2",)),
        "num_features": Lie(
            replace(honest, num_features=13), honest, ("num_features: 13 declared, pool gives (3, 12)",)
        ),
        "params": Lie(replace(honest, params=5), honest, ("params: 5 declared, the true value is 1,120",)),
        "macs": Lie(replace(honest, macs=9), honest, ("macs: 9 declared, the true value is 110,592",)),
        "num_classes": Lie(
            replace(honest, weights=(replace(WEIGHTS, num_classes=8),)),
            honest,
            ("weights 'v1', num_classes: 8 declared, source_head gives 7",),
        ),
        "other input sizes": Lie(
            _flat(8),
            _flat(None),
            (
                "input: size_divisor 4 and not fixed_size declared, an image of 36 x 36 raises RuntimeError: shape "
                "'[-1, 12, 64]' is invalid for input of size 1944",
            ),
        ),
        "a stage that closes over another": Lie(
            _remembering(True),
            _remembering(False),
            ("split: a stage uses something other than the activation it is given",),
        ),
        "dropout in eval mode": Lie(
            _with(lambda: Function(lambda x: nn.functional.dropout(x, 0.5, training=True))),
            _with(lambda: nn.Dropout(0.5)),
            ("split: two passes in eval mode differ (dropout or noise that ignores eval?)",),
        ),
        "batch-dependent output": Lie(
            _with(lambda: Function(lambda x: x - x.mean(0, keepdim=True))),
            _with(lambda: Function(lambda x: x - x.mean((2, 3), keepdim=True))),
            ("split: an image's embedding depends on the others in its batch",),
        ),
        "in-place change of the input": Lie(
            _with(lambda: Function(lambda x: x.mul_(2))),
            _with(lambda: Function(lambda x: x * 2)),
            (
                "split: stages[1] changes its input in place",
                "gradients: raises RuntimeError: one of the variables needed for gradient computation has been...",
            ),
        ),
        "statistics that a frozen stage still updates": Lie(
            _with(lambda: StubbornNorm(3), 0, params=6),
            _with(lambda: norm(3), 0, params=6),
            (
                "split: with 1 stages frozen, training still changes them",
                "split: two passes in eval mode differ (dropout or noise that ignores eval?)",
            ),
        ),
        "a parameter that no gradient reaches": Lie(
            _with(lambda: Offset(used=False), params=8),
            _with(lambda: Offset(used=True), params=8),
            ("split: no gradient reaches stages.1.0.offset (1 parameters in all)",),
        ),
        "numbers outside of the state": Lie(
            _with(lambda: Noise(persistent=False)),
            _with(lambda: Noise(persistent=True)),
            ("build: a second module with the same state gives another embedding",),
        ),
        "copies that pretrained weights never reach": Lie(
            replace(honest, split=_copying),
            honest,
            (
                "split: stages.0.1.weight is not the tensor of the module that build gives (12 in all): pretrained "
                "weights would not reach it; use the module's own parts, not copies",
            ),
        ),
        "a parameter of two stages": Lie(
            _tied(True), _tied(False), ("split: 0.scale of stages[0] is a parameter of stages[1], too",)
        ),
        "NaN": Lie(
            _with(lambda: Function(lambda x: x.log())),
            _with(lambda: Function(lambda x: x.add(1).log())),
            ("split: pool gives NaN or infinity for ordinary images",),
        ),
        "double precision": Lie(
            _pooled(lambda: nn.Sequential(_average(), Function(lambda x: x.double()))),
            _pooled(_average),
            ("split: pool gives torch.float64, must be torch.float32",),
        ),
        "views of channels-last images": Lie(
            _with(lambda: Function(lambda x: x.view(len(x), -1, 4).view(x.shape)), 0),
            _with(lambda: Function(lambda x: x.reshape(len(x), -1, 4).reshape(x.shape)), 0),
            (
                "split: a training pass raises RuntimeError: view size is not compatible with input tensor's size and "
                "stride (at least one dimension spans across two contiguous subspaces). Use .reshape(...) instead.",
            ),
        ),
        "a graph that depends on the values": Lie(
            _with(lambda: Function(_branching)),
            _with(lambda: Function(lambda x: torch.where(x.sum((1, 2, 3), keepdim=True) > 0, x * 2, x))),
            ("exports: raises ModelError: cannot export to ONNX: ...",),
        ),
        "build that raises": Lie(
            replace(honest, build=lambda: 1 / 0),  # type: ignore[arg-type, return-value]
            honest,
            ("build or split raises ZeroDivisionError: division by zero",),
        ),
        "split of another type": Lie(
            replace(honest, split=lambda module: module),  # type: ignore[arg-type, return-value]
            honest,
            ("split gives Net; must be zoo.nn.backbone.Backbone",),
        ),
    }


LIES = _lies()


def test_there_are_enough_of_them() -> None:
    assert len(LIES) >= 20


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_caught_and_its_honest_twin_passes(name: str) -> None:
    lie = LIES[name]
    found = [finding.message for finding in check_backbone(lie.told, deep="values" in name)]
    assert len(found) == len(lie.messages), found
    for message, expected in zip(found, lie.messages, strict=True):
        assert message.startswith(expected[:-3]) if expected.endswith("...") else message == expected
    assert check_backbone(lie.twin, deep="values" in name) == []


def test_the_honest_one_exports() -> None:
    assert check_backbone(_honest(), deep=True) == []


@pytest.mark.parametrize("name", ["mean", "std"])
def test_numbers_of_pixels_up_to_255_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: \(123.7, 116.3, 103.5\); in \[.*\(not 0 to 255\)"):
        ImageInput(height=32, width=32, **{name: (123.7, 116.3, 103.5)})  # type: ignore[arg-type]


def _head(**changes: object) -> HeadSpec:
    return replace(zoo_heads.zoo_heads()[0], **changes)  # type: ignore[arg-type]


class _Idle(nn.Linear):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.idle = nn.Parameter(torch.zeros(2))


HEAD_LIES: dict[str, tuple[HeadSpec, str]] = {
    "shape": (
        _head(build=lambda features, classes, options: nn.Linear(features, 3)),
        "build: gives logits (4, 3), must be (4, 5)",
    ),
    "dropout in eval mode": (
        _head(
            build=lambda features, classes, options: nn.Sequential(
                Function(lambda x: nn.functional.dropout(x, training=True)), nn.Linear(features, classes)
            )
        ),
        "build: two passes in eval mode differ",
    ),
    "loss": (
        _head(loss=lambda logits, labels: nn.functional.cross_entropy(logits, labels, reduction="none")),
        "loss: gives shape (4,), must be one number",
    ),
    "gradients": (
        _head(build=lambda features, classes, options: _Idle(features, classes)),
        "build: no gradient reaches idle",
    ),
    "raises": (
        _head(build=lambda features, classes, options: 1 / 0),
        "build or loss raises ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize("name", HEAD_LIES)
def test_a_lie_of_a_head_is_caught(name: str) -> None:
    spec, message = HEAD_LIES[name]
    assert [finding.message for finding in check_head(spec)] == [message]
