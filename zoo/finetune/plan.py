"""What a request comes to, before anything is trained: stages frozen and trainable, rates, steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zoo.data.dataset import DataSet
from zoo.errors import UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.strategies import STRATEGIES, Strategy
from zoo.nn.augment import Augment
from zoo.specs import BackboneSpec, ImageInput, StageSpec

_EVALUATIONS = 20
"""At most so many in one training: of small data, not every epoch is followed by one."""
_PATIENCE = 5
SMALL_DATA = 5_000
"""Below this many training images pretrained BatchNorm statistics are better than those of the data."""
_SMALL_BATCH = 32
"""Batches of fewer images have poor statistics, too."""
_PROBE_IMAGES = 1_000
"""A probe takes augmented views of its images as long as they are no more images than these: where they help most, and
take seconds."""
_MOST_PROBE_VIEWS = 4
_RANK = 8
"""Of adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One part of the network as it will be trained."""

    name: str
    params: int
    frozen: bool
    lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Some epochs with the same stages frozen."""

    freeze_stages: int
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every number training will use."""

    strategy: Strategy
    phases: tuple[Phase, ...]
    """In order; later ones freeze less. A probe has one without epochs."""
    keep_statistics: bool
    input: ImageInput
    augment: Augment
    probe_views: int
    """Views of each image, the plain one among them, that the head of a probe is fitted on."""
    steps_per_epoch: int
    eval_epochs: int
    """Epochs between evaluations."""
    batch_size: int
    """Images per step and device."""
    devices: int
    patience: int
    stage_lrs: tuple[float, ...]
    head_lr: float
    stages: tuple[StageSpec, ...]
    rank: int
    """Of adapters, where the strategy has some."""
    average: bool
    """Evaluate, and keep, moving averages of the weights."""
    interpolate: bool
    lr_race: bool
    l2_sp: float
    co_tuning: float
    balance: bool

    @property
    def images_per_step(self) -> int:
        """On all devices together."""
        return self.batch_size * self.devices

    @property
    def freeze_stages(self) -> int:
        """Stages that are frozen to the end."""
        return self.phases[-1].freeze_stages

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def steps(self) -> int:
        """Optimiser steps of all phases together."""
        return self.epochs * self.steps_per_epoch

    def phase_of(self, epoch: int) -> int:
        """The number of the phase that `epoch` belongs to; of the last one for what comes after."""
        ends = itertools.accumulate(phase.epochs for phase in self.phases)
        return next((number for number, end in enumerate(ends) if epoch < end), len(self.phases) - 1)

    def scaled(self, factor: float) -> Plan:
        """The same plan with all learning rates so many times as large."""
        return replace(self, stage_lrs=tuple(lr * factor for lr in self.stage_lrs), head_lr=self.head_lr * factor)

    def shortened(self, share: float) -> Plan:
        """The same plan with only this share of the epochs in each phase, one at least."""
        phases = tuple(replace(phase, epochs=max(1, round(phase.epochs * share))) for phase in self.phases)
        return replace(self, phases=phases)

    def first_step(self, phase: int) -> int:
        """Steps before the phase of this number."""
        return sum(before.epochs for before in self.phases[:phase]) * self.steps_per_epoch

    def groups(
        self,
        stage_params: Sequence[int],
        pool_params: int,
        head_params: int,
        adapter_params: Sequence[int] | None = None,
    ) -> list[Group]:
        """The parts of the network, bottom to top, with their parameter counts; the pool where it has parameters, and,
        in place of the backbone's own, those of the adapters in each stage where these are trained."""
        held, rows = adapter_params is not None, list[Group]()
        for number, (params, lr) in enumerate(zip(stage_params, self.stage_lrs, strict=True)):
            rows.append(Group(name=f"stage {number}", params=params, frozen=held or number < self.freeze_stages, lr=lr))
            if adapter_params is not None and adapter_params[number]:
                added = adapter_params[number]
                rows.append(Group(name=f"adapters of stage {number}", params=added, frozen=False, lr=lr))
        if pool_params:  # it is frozen and trained with the last stage
            frozen = held or self.freeze_stages == len(self.stages)
            rows.append(Group(name="pool", params=pool_params, frozen=frozen, lr=self.stage_lrs[-1]))
        return [*rows, Group(name="head", params=head_params, frozen=False, lr=self.head_lr)]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        derived = {"freeze_stages": self.freeze_stages, "epochs": self.epochs, "steps": self.steps}
        return {**asdict(self), **derived, "strategy": self.strategy.name}


def make_plan(request: FinetuneRequest, spec: BackboneSpec, input_spec: ImageInput, data: DataSet) -> Plan:
    """The plan of a request. Raises UsageError where its options do not fit the backbone."""
    assert request.strategy != "auto"  # settled before there is a plan
    strategy = STRATEGIES[request.strategy]
    count = len(data.of("train"))
    per_epoch = max(1, math.ceil(count / (request.batch_size * request.devices)))
    if request.devices > 1 and count // per_epoch < request.devices:
        raise UsageError(
            f"--devices {request.devices}: some step would have no image for one of them ({count} training images, "
            f"--batch-size {request.batch_size}); give fewer devices or a larger batch"
        )
    epochs = (request.epochs or strategy.epochs_of(per_epoch)) if strategy.trains_backbone else 0
    for option, asked in (("--lr-race", request.lr_race), ("--trials", request.trials)):
        if asked and not data.of("val"):
            raise UsageError(f"{option}: no validation images to judge by; leave it out or give --val-share")
    if request.taps is not None and request.taps >= len(spec.stages):
        raise UsageError(
            f"--taps {request.taps}: {spec.name} has {len(spec.stages) - 1} stages below its embedding's; give no more"
        )
    phases = _phases(request, strategy, spec, epochs)
    frozen = phases[-1].freeze_stages
    scale = request.lr / strategy.lr if request.lr is not None and strategy.lr else 1.0
    last = len(spec.stages) - 1
    decay = request.layer_decay if request.layer_decay is not None else strategy.layer_decay
    augment = _augment(request, spec.input if request.mirror is not None else input_spec)
    probe_views = _probe_views(request, strategy, augment, count)
    if strategy.name == "probe" and probe_views == 1 and request.augment not in ("auto", "none"):
        raise UsageError(
            f"--augment {request.augment}: a probe sees these {count} images as they are; give --views 2 or more, or "
            "leave it out"
        )
    return Plan(
        strategy=strategy,
        phases=phases,
        keep_statistics=strategy.pretrained
        and (count < SMALL_DATA or request.batch_size < _SMALL_BATCH or strategy.adapters is not None),
        input=input_spec,
        augment=augment,
        probe_views=probe_views,
        steps_per_epoch=per_epoch,
        eval_epochs=max(1, math.ceil(epochs / _EVALUATIONS)),
        batch_size=request.batch_size,
        devices=request.devices,
        patience=request.patience if request.patience is not None else _PATIENCE,
        stage_lrs=tuple(
            0.0 if number < frozen else strategy.lr * scale * decay ** (last - number)
            for number in range(len(spec.stages))
        ),
        head_lr=strategy.head_lr * scale,
        stages=tuple(spec.stages),
        rank=request.rank or _RANK,
        average=request.average,
        interpolate=request.interpolate,
        lr_race=request.lr_race,
        l2_sp=request.l2_sp,
        co_tuning=request.co_tuning,
        balance=request.balance,
    )


def _phases(request: FinetuneRequest, strategy: Strategy, spec: BackboneSpec, epochs: int) -> tuple[Phase, ...]:
    if not strategy.gradual:
        return (Phase(freeze_stages=_freeze_stages(request, strategy, spec), epochs=epochs),)
    # One more stage per phase, from the top, in phases of (nearly) equal length; with fewer epochs than stages some
    # open together.
    count = len(spec.stages)
    ends = [(number + 1) * epochs // count for number in range(count)]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    phases = [Phase(freeze_stages=count - 1 - number, epochs=length) for number, length in enumerate(lengths)]
    return tuple(phase for phase in phases if phase.epochs)


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


def _augment(request: FinetuneRequest, pretrained: ImageInput) -> Augment:
    if request.augment != "auto":
        return request.augment
    # What was pretrained without mirroring is glyph-like, and half of a glyph is another one; a user who forbids
    # mirroring says nothing about crops.
    return "crop" if pretrained.mirror else "affine"


def _probe_views(request: FinetuneRequest, strategy: Strategy, augment: Augment, images: int) -> int:
    if request.views is not None and strategy.name == "probe":
        return request.views
    if augment in ("none", "affine") or not strategy.head_from_probe:
        return 1  # turned and shifted glyphs were measured to tell a probe nothing new
    return 1 + min(_MOST_PROBE_VIEWS, _PROBE_IMAGES // images)
