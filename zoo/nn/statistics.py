"""Running statistics of BatchNorm that belong to the weights as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from lightning_fabric import Fabric
from torch import nn

from zoo.nn.augment import Augment
from zoo.nn.batches import Source
from zoo.nn.engine import derive_seed, place
from zoo.nn.model import TransferModel

_BATCHES = 200
_FEW_BATCHES = 20


@torch.no_grad()
def estimate_statistics(
    model: TransferModel,
    source: Source,
    *,
    policy: Augment,
    seed: int,
    fabric: Fabric,
    batches: int = _BATCHES,
) -> None:
    """Takes the running statistics of every BatchNorm that trains anew, as the means over so many batches at most.

    Those kept while training are of weights that were still moving, and of averaged weights there are none at all. Wu
    and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (PreciseBN). Frozen and kept statistics stay.
    """
    model.train()
    norms = _trained_norms(model)
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    torch.manual_seed(derive_seed(seed, "statistics"))  # dropout
    # Whole batches on every device: all come to the same.
    some = islice(source.augmented(policy, seed=derive_seed(seed, "statistics"), epoch=0), batches)
    for inputs, _ in some:
        with fabric.autocast():
            model(place(inputs, fabric), source.entry)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


@contextmanager
def estimated_statistics(
    model: TransferModel, source: Source, *, policy: Augment, seed: int, fabric: Fabric
) -> Iterator[None]:
    """For the length of a `with` block, statistics of the present weights, over 20 batches, to measure these by.

    After few steps the running ones are still of other weights, and would show the model worse than it is.
    """
    model.train()
    usual = {buffer: buffer.clone() for norm in _trained_norms(model) for buffer in norm.buffers()}
    estimate_statistics(model, source, policy=policy, seed=seed, fabric=fabric, batches=_FEW_BATCHES)
    try:
        yield
    finally:
        for buffer, value in usual.items():
            buffer.copy_(value)


def _trained_norms(model: TransferModel) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every BatchNorm of a model in train mode that keeps statistics of what it sees."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
