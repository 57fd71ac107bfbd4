"""The strategies of transfer learning, each one line of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo.finetune.request import StrategyName
from zoo.nn.adapters import AdapterKind

_FEWEST_EPOCHS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What a strategy freezes, where it starts, and how fast it learns.

    `lr` is the AdamW rate of the last stage, `head_lr` that of the head, and each stage below learns `layer_decay`
    times as fast as the one above it.
    """

    name: StrategyName
    summary: str
    pretrained: bool = True
    trains_backbone: bool = True
    takes_freeze_stages: bool = False
    gradual: bool = False
    """One more stage is thawed per phase, from the top (ULMFiT, Howard and Ruder 2018, section 3.3)."""
    surgical: bool = False
    """Each stage learns as fast as its gradients, beside its weights, ask for (Auto-RGN, Lee et al. 2023)."""
    adapters: AdapterKind | None = None
    """Only these are trained of the backbone, and merged into its weights at the end."""
    head_from_probe: bool = False
    """Start from the best head on frozen embeddings rather than from a random one (LP-FT, Kumar et al. 2022)."""
    lr: float
    head_lr: float
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    steps: int
    """Optimiser steps where --epochs does not say, but five epochs at least."""

    def epochs_of(self, steps_per_epoch: int) -> int:
        """Epochs where --epochs does not say."""
        return max(_FEWEST_EPOCHS, math.ceil(self.steps / steps_per_epoch))


STRATEGIES: dict[StrategyName, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            name="probe",
            summary="feature extraction: the backbone is frozen, the best head on its embeddings is computed",
            trains_backbone=False,
            head_from_probe=True,
            lr=0.0,
            head_lr=0.0,
            steps=0,
        ),
        Strategy(
            name="partial",
            summary="the first K stages are frozen, the rest is trained from the best head of a probe",
            takes_freeze_stages=True,
            head_from_probe=True,
            lr=3e-4,
            head_lr=3e-4,
            steps=400,
        ),
        Strategy(
            name="lp-ft",
            summary="a probe first, then everything is trained gently from that head",
            head_from_probe=True,
            lr=3e-4,
            head_lr=3e-4,
            layer_decay=0.8,
            steps=400,
        ),
        Strategy(
            name="gradual",
            summary="a probe first, then one more stage is trained per phase, from the top",
            gradual=True,
            head_from_probe=True,
            lr=3e-4,
            head_lr=3e-4,
            layer_decay=0.8,
            steps=400,
        ),
        Strategy(
            name="surgical",
            summary="a probe first, then everything is trained, each stage as fast as its gradients ask for",
            surgical=True,
            head_from_probe=True,
            lr=3e-4,
            head_lr=3e-4,
            steps=400,
        ),
        Strategy(
            name="lora",
            summary="a probe first, then low-rank adapters on linear layers (of a transformer) are trained, and merged",
            adapters="lora",
            head_from_probe=True,
            lr=1e-3,
            head_lr=3e-4,
            steps=400,
        ),
        Strategy(
            name="dora",
            summary="like lora, with the length of each row of weights trained beside its direction",
            adapters="dora",
            head_from_probe=True,
            lr=1e-3,
            head_lr=3e-4,
            steps=400,
        ),
        Strategy(
            name="full",
            summary="everything is trained from the pretrained weights and a random head",
            lr=3e-4,
            head_lr=3e-3,
            steps=400,
        ),
        Strategy(
            name="scratch",
            summary="the same architecture from random weights, for comparison",
            pretrained=False,
            lr=3e-3,
            head_lr=3e-3,
            weight_decay=0.05,
            steps=800,
        ),
    )
}
