"""What a user asks of `finetune`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from zoo.data.store import OnBadSample
from zoo.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
AugmentChoice = Literal["auto", "none", "gentle", "crop", "trivial", "affine"]
CacheChoice = Literal["auto", "always", "never"]
CompileChoice = Literal["auto", "always", "never"]
StrategyName = Literal["auto", "probe", "partial", "lp-ft", "gradual", "surgical", "lora", "dora", "full", "scratch"]

_OF_STEPS = (
    "epochs",
    "devices",
    "lr",
    "patience",
    "cache",
    "compile",
    "layer_decay",
    "l2_sp",
    "co_tuning",
    "average",
    "interpolate",
    "lr_race",
    "trials",
)
"""Fields that only mean something where steps are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """One fine-tuning as asked for; None leaves a choice to the strategy, see `zoo finetune --dry-run`."""

    data: str
    backbone: str
    """`[<plugin>/]<name>[@tag]`, or several as one: a chain `A -> B`, with stages `A[:7] -> B[5:]`, or side by
    side, `A + B`."""
    weights: str | None = None
    """A tag, a file, or `none` (only for `scratch`); of several backbones `a -> b`, `a + b`."""
    head: str = "linear"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    strategy: StrategyName = "auto"
    freeze_stages: int | None = None
    rank: int | None = None
    """Of the adapters of `lora` and `dora`."""
    drop_stages: int = 0
    """Stages to take off the end of the backbone."""
    input_size: int | None = None
    epochs: int | None = None
    batch_size: int = 32
    """Images per step, on each device."""
    devices: int = 1
    """Processes that train together, each on a GPU of its own or all on the CPU."""
    lr: float | None = None
    layer_decay: float | None = None
    """Each stage learns so many times as fast as the one above it."""
    l2_sp: float = 0.0
    """Strength of the penalty for leaving the pretrained weights (L2-SP)."""
    co_tuning: float = 0.0
    """Weight of the source task's loss beside that of the target task (Co-Tuning)."""
    average: bool = False
    """Evaluate, and keep, moving averages of the weights."""
    interpolate: bool = False
    """After training, look for a better model on the line back to its start (WiSE-FT)."""
    lr_race: bool = False
    """Try three learning rates for a tenth of the steps each, go on with the best, average what helps (soup)."""
    balance: bool = False
    """Treat classes as equally frequent, however many images each has."""
    trials: int | None = None
    """Train so many times, each with other settings where these are left open, and keep the best on validation."""
    augment: AugmentChoice = "auto"
    mirror: bool | None = None
    """Whether a mirrored image keeps its meaning; as the backbone's weights say when None."""
    cache: CacheChoice = "auto"
    """Whether activations at the freeze boundary are computed once and kept; `auto`: where that is estimated to pay."""
    compile: CompileChoice = "auto"
    """Whether the network is trained through torch.compile; `auto`: on a GPU, where that is measured to pay."""
    views: int | None = None
    """Views of each image, the plain one among them, that frozen stages see.

    Of activations, when None: one for every four epochs, but three to eight. Of the features of a probe: five of up to
    250 images, fewer of more, one of more than 1,000.
    """
    taps: int | None = None
    """How many stages below the embedding the head of a probe sees beside it; as many as help when None."""
    patience: int | None = None
    """Evaluations without a better validation score before training stops; 0 never stops early."""
    shots: int | None = None
    val_share: float | None = None
    seed: int = 0
    device: Device = "auto"
    threads: int | None = None
    deterministic: bool = False
    """Refuse operations that give another result each time; on the CPU there are hardly any."""
    on_bad_sample: OnBadSample = "fail"
    track_test: bool = False
    """Measure the test split during training too, for learning curves; nothing is ever chosen by it."""
    compare_scratch: bool = False
    """Train the same architecture from random weights beside it, into the folder `scratch` of the run."""
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        positive = {
            "--epochs": self.epochs,
            "--batch-size": self.batch_size,
            "--devices": self.devices,
            "--lr": self.lr,
            "--threads": self.threads,
            "--rank": self.rank,
            "--views": self.views,
            "--trials": self.trials,
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name}: {value}; must be more than 0")
        if self.val_share is not None and not 0 <= self.val_share < 1:
            raise UsageError(f"--val-share: {self.val_share}; must be in [0, 1)")
        if self.devices > 1 and self.trials is not None:
            raise UsageError(f"--devices {self.devices}: a trial of a search trains on one device; leave it out")
        if self.freeze_stages is not None and self.strategy != "partial":
            raise UsageError(f"--freeze-stages goes with --strategy partial, not {self.strategy!r}")
        if self.strategy == "probe" and (given := self.training_options()):
            raise UsageError(f"{given[0]} means nothing to a probe, which takes no training steps; leave it out")
        if self.taps is not None and (self.taps < 0 or self.strategy != "probe"):
            raise UsageError(f"--taps {self.taps}: 0 or more, and with --strategy probe, not {self.strategy!r}")
        adapted = self.strategy in ("lora", "dora")
        if self.rank is not None and not adapted:
            raise UsageError(f"--rank goes with --strategy lora or dora, not {self.strategy!r}")
        if adapted and (self.l2_sp or self.interpolate):
            name = "--l2-sp" if self.l2_sp else "--interpolate"
            raise UsageError(f"{name}: {self.strategy} changes no pretrained weight before its end; leave it out")
        if self.strategy in ("lp-ft", "surgical", "lora", "dora", "full", "scratch") or self.freeze_stages == 0:
            for name, is_given in (("--cache always", self.cache == "always"), ("--views", self.views is not None)):
                if is_given:
                    raise UsageError(
                        f"{name}: {self.strategy} freezes nothing whose activations could be kept; leave it out"
                    )
        if self.augment == "none" and (self.views or 1) > 1:
            raise UsageError(f"--views {self.views}: with --augment none they are all the same; leave one out")
        if self.strategy == "scratch" and self.compare_scratch:
            raise UsageError("--compare-scratch: the run is from scratch itself; leave it out")
        if self.co_tuning and self.drop_stages:
            raise UsageError(
                "--co-tuning needs the classifier of the source task, which --drop-stages takes off; drop one"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UsageError(f"--layer-decay: {self.layer_decay}; must be in (0, 1]")
        for name, strength in (("--l2-sp", self.l2_sp), ("--co-tuning", self.co_tuning)):
            if not 0 <= strength < math.inf:
                raise UsageError(f"{name}: {strength}; must be 0 (off) or more")
            if strength and self.strategy == "scratch":
                raise UsageError(f"{name}: scratch has no pretrained weights to hold on to; leave it out")
        if self.interpolate and self.strategy in ("full", "scratch"):
            raise UsageError(
                f"--interpolate: {self.strategy} starts from a random head, and halfway back to it is no model; leave "
                "it out, or use --strategy lp-ft"
            )
        if self.strategy == "scratch" and self.weights not in (None, "none"):
            raise UsageError(f"--weights {self.weights}: scratch starts from random weights; leave it out")
        if self.strategy != "scratch" and self.weights == "none":
            raise UsageError(f"--weights none: {self.strategy!r} needs pretrained weights; use --strategy scratch")

    def scratch_twin(self) -> FinetuneRequest:
        """The request that trains the same architecture on the same images from random weights."""
        return FinetuneRequest(
            data=self.data,
            backbone=self.backbone,
            head=self.head,
            head_options=self.head_options,
            strategy="scratch",
            drop_stages=self.drop_stages,
            input_size=self.input_size,
            epochs=self.epochs,
            batch_size=self.batch_size,
            devices=self.devices,
            # To its end: it may stay at chance for long before it rises.
            patience=self.patience or 0,
            augment=self.augment,
            mirror=self.mirror,
            balance=self.balance,
            shots=self.shots,
            val_share=self.val_share,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
            deterministic=self.deterministic,
            compile=self.compile,
            on_bad_sample=self.on_bad_sample,
            track_test=self.track_test,
            checkpoint_seconds=self.checkpoint_seconds,
        )

    def training_options(self) -> list[str]:
        """The options given that only mean something where steps are trained."""
        return [
            f"--{name.replace('_', '-')}"
            for name, default in _defaults(_OF_STEPS).items()
            if getattr(self, name) != default
        ]

    def as_probe(self) -> FinetuneRequest:
        """The request of a probe of the same backbone on the same images."""
        return replace(self, **{**_defaults((*_OF_STEPS, "freeze_stages", "rank")), "strategy": "probe"})


def _defaults(names: Sequence[str]) -> dict[str, Any]:
    return {each.name: each.default for each in fields(FinetuneRequest) if each.name in names}
