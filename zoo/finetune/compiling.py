"""Training through torch.compile, where that is measured to pay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from zoo.errors import RunError
from zoo.finetune.objective import Network, Objective
from zoo.nn.augment import Augment
from zoo.nn.batches import Source
from zoo.nn.engine import place, seconds_of
from zoo.nn.fold import folded
from zoo.nn.team import mean, share_of

_COMPILE_SECONDS = 30.0
"""The least that torch takes to compile a network."""
_TRIED = 5
"""A compilation is tried where training is estimated to take so many times as long."""
_WORTH = 0.9
"""Compiled steps must take no more than this share of the time of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """What training steps on one batch take on this device, in seconds; infinite where compiling was not tried."""

    usual: float
    compiled: float = math.inf
    compiling: float = math.inf
    """Until the first compiled step was done."""

    @property
    def tried(self) -> bool:
        """Whether the network was compiled."""
        return math.isfinite(self.compiling)

    @property
    def pays(self) -> bool:
        """Whether the compiled network is the faster one, now that the time to compile it is spent."""
        return self.compiled <= _WORTH * self.usual

    def to_json(self) -> dict[str, float | None]:
        """The times as JSON values, None for infinite ones."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def compiled(network: nn.Module) -> Any:
    """`network` through torch.compile: in its first pass, and once more for the other of two sizes of batches."""
    torch.compiler.reset()  # of all that was compiled before; past a limit torch goes on uncompiled, without a word
    return torch.compile(network, dynamic=False)


def measure_steps(
    network: Network,
    source: Source,
    *,
    objective: Objective,
    policy: Augment,
    steps: float,
    fabric: Fabric,
) -> StepTimes:
    """What steps of `network` on the first batch of `source` take, as it is and, where `steps` of them are worth
    trying it, compiled. Nothing of the network is changed.

    Raises RunError where torch cannot compile it.
    """
    inputs, labels = next(iter(source.augmented(policy, seed=0, epoch=0, share=share_of(fabric))))
    inputs, labels = place(inputs, fabric), place(labels, fabric)

    def step(module: Callable[..., Any]) -> None:
        with fabric.autocast():
            loss = objective(module(inputs, source.entry), labels)
        loss.backward()
        float(loss.detach())  # waits for a GPU

    network.train()
    with _unchanged(network), folded(network.model):  # as training will run it
        usual = mean(fabric, seconds_of(lambda: step(network)))  # so that several devices decide alike
        if steps * usual < _TRIED * _COMPILE_SECONDS:
            return StepTimes(usual=usual)
        fast, began = compiled(network), time.perf_counter()
        try:
            step(fast)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RunError(f"torch cannot compile this network here: {str(error).splitlines()[0]}") from error
        compiling = time.perf_counter() - began
        return StepTimes(usual=usual, compiled=mean(fabric, seconds_of(lambda: step(fast))), compiling=compiling)


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Puts back what passes forward and backward leave in `network`: statistics and gradients."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        network.zero_grad()
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
