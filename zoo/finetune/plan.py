"""What a request comes to, before anything is trained: stages frozen and trainable, rates, steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from zoo.data.dataset import DataSet
from zoo.errors import UsageError
from zoo.finetune.request import AugmentChoice, FinetuneRequest
from zoo.finetune.strategies import STRATEGIES, Strategy
from zoo.nn.augment import Augment
from zoo.specs import BackboneSpec, ImageInput, StageSpec

_EVALUATIONS = 20
"""At most so many in one training: of small data, not every epoch is followed by one."""
_PATIENCE = 5
SMALL_DATA = 5_000
"""Below this many training images pretrained BatchNorm statistics are better than those of the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One part of the network as it will be trained."""

    name: str
    params: int
    frozen: bool
    lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every number training will use."""

    strategy: Strategy
    freeze_stages: int
    keep_statistics: bool
    input: ImageInput
    augment: Augment
    epochs: int
    steps: int
    eval_epochs: int
    """Epochs between evaluations."""
    batch_size: int
    patience: int
    stage_lrs: tuple[float, ...]
    head_lr: float
    stages: tuple[StageSpec, ...]

    def groups(self, stage_params: list[int], head_params: int) -> list[Group]:
        """The parts of the network, bottom to top, with their parameter counts."""
        rows = [
            Group(name=f"stage {number}", params=params, frozen=number < self.freeze_stages, lr=lr)
            for number, (params, lr) in enumerate(zip(stage_params, self.stage_lrs, strict=True))
        ]
        return [*rows, Group(name="head", params=head_params, frozen=False, lr=self.head_lr)]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {**asdict(self), "strategy": self.strategy.name}


def make_plan(request: FinetuneRequest, spec: BackboneSpec, input_spec: ImageInput, data: DataSet) -> Plan:
    """The plan of a request. Raises UsageError where its options do not fit the backbone."""
    strategy = STRATEGIES[request.strategy]
    count = len(data.of("train"))
    per_epoch = max(1, math.ceil(count / request.batch_size))
    epochs = (request.epochs or math.ceil(strategy.steps / per_epoch)) if strategy.trains_backbone else 0
    frozen = _freeze_stages(request, strategy, spec)
    scale = request.lr / strategy.lr if request.lr is not None and strategy.lr else 1.0
    last = len(spec.stages) - 1
    return Plan(
        strategy=strategy,
        freeze_stages=frozen,
        keep_statistics=strategy.pretrained and count < SMALL_DATA,
        input=input_spec,
        augment=_augment(request.augment, input_spec),
        epochs=epochs,
        steps=epochs * per_epoch,
        eval_epochs=max(1, math.ceil(epochs / _EVALUATIONS)),
        batch_size=request.batch_size,
        patience=request.patience if request.patience is not None else _PATIENCE,
        stage_lrs=tuple(
            0.0 if number < frozen else strategy.lr * scale * strategy.layer_decay ** (last - number)
            for number in range(len(spec.stages))
        ),
        head_lr=strategy.head_lr * scale,
        stages=tuple(spec.stages),
    )


def _freeze_stages(request: FinetuneRequest, strategy: Strategy, spec: BackboneSpec) -> int:
    count = len(spec.stages)
    if not strategy.trains_backbone:
        return count
    if not strategy.takes_freeze_stages:
        return 0
    # All but the last stage by default: the usual first step beyond a probe.
    frozen = request.freeze_stages if request.freeze_stages is not None else count - 1
    if not 0 <= frozen < count:
        raise UsageError(
            f"--freeze-stages: {frozen}; {spec.name} has {count} stages, freeze 0 to {count - 1} of them "
            "(all: --strategy probe)"
        )
    return frozen


def _augment(asked: AugmentChoice, spec: ImageInput) -> Augment:
    if asked != "auto":
        return asked
    return "crop" if spec.mirror else "affine"
