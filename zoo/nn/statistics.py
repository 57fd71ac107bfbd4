"""Running statistics of BatchNorm that belong to the weights as they are now."""

from __future__ import annotations

from itertools import islice

import torch
from lightning_fabric import Fabric
from torch import nn

from zoo.nn.augment import Augment
from zoo.nn.batches import Source
from zoo.nn.engine import derive_seed, place
from zoo.nn.model import TransferModel

_BATCHES = 200


@torch.no_grad()
def estimate_statistics(model: TransferModel, source: Source, *, policy: Augment, seed: int, fabric: Fabric) -> None:
    """Takes the running statistics of every BatchNorm that trains anew, as the means over 200 batches at most.

    Those kept while training are of weights that were still moving, and of averaged weights there are none at all. Wu
    and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3 (PreciseBN). Frozen and kept statistics stay.
    """
    model.train()
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats
    ]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    torch.manual_seed(derive_seed(seed, "statistics"))  # dropout
    # Whole batches on every device: all come to the same.
    batches = source.augmented(policy, seed=derive_seed(seed, "statistics"), epoch=0)
    for inputs, _ in islice(batches, _BATCHES):
        with fabric.autocast():
            model(place(inputs, fabric), source.entry)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
