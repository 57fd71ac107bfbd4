"""A model over a list of samples: logits, loss and accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.batches import Source
from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import place
from zoo.nn.model import TransferModel
from zoo.nn.team import gathered, share_of
from zoo.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Score:
    """Mean cross entropy, the same after temperature scaling on these very samples, and the share of right answers."""

    loss: float
    calibrated_loss: float
    accuracy: float


def logits(
    model: TransferModel, source: Source, *, fabric: Fabric, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] float32 and labels [N], on the CPU; the model is put into eval mode."""
    model.eval()
    found, labels = [], []
    with torch.no_grad(), (progress or Silent()).task("predicting", len(source.samples)) as task:
        for inputs, truth in source.plain(share_of(fabric)):
            with fabric.autocast():
                found.append(model(place(inputs, fabric), source.entry).float().cpu())
            labels.append(truth)
            task.advance(len(truth))
    return gathered(fabric, found), gathered(fabric, labels)


def score(model: TransferModel, source: Source, *, fabric: Fabric) -> Score:
    """How the model does on the samples."""
    # Everybody has all logits, but what follows from them must not hang on how each machine rounds.
    return fabric.broadcast(score_logits(*logits(model, source, fabric=fabric)))


def score_logits(found: Tensor, truth: Tensor) -> Score:
    """The score of logits [N, C] where the labels [N] are `truth`."""
    return Score(
        loss=float(F.cross_entropy(found, truth)),
        calibrated_loss=float(F.cross_entropy(found / fit_temperature(found, truth), truth)),
        accuracy=float((found.argmax(1) == truth).float().mean()),
    )
