"""A model over a list of samples: logits, loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable
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
    """How right logits are about some samples."""

    loss: float
    """Mean cross entropy."""
    calibrated_loss: float
    """The same after temperature scaling on these very samples."""
    accuracy: float
    """The share of right answers."""
    mean_recall: float
    """The mean over classes of the share of right answers: each counts alike, however many samples it has."""

    def merit(self, *, balance: bool) -> tuple[float, float]:
        """What a better model has more of: right answers, of all samples or with `balance` of each class, then
        calibrated certainty (the head of a probe is calibrated on the samples that choose, what is trained is not)."""
        return self.mean_recall if balance else self.accuracy, -self.calibrated_loss


def features(model: TransferModel, source: Source, *, fabric: Fabric, progress: Progress) -> tuple[Tensor, Tensor]:
    """What the head sees: features [N, D] float32 and labels [N], on the CPU; the model is put into eval mode."""
    return _pass(lambda inputs, entry: model.run(inputs, entry)[1], model, source, fabric=fabric, progress=progress)


def logits(
    model: TransferModel, source: Source, *, fabric: Fabric, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] float32 and labels [N], on the CPU; the model is put into eval mode."""
    return _pass(model, model, source, fabric=fabric, progress=progress or Silent())


def _pass(
    function: Callable[[Tensor, int], Tensor],
    model: TransferModel,
    source: Source,
    *,
    fabric: Fabric,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """What `function` of `model` gives for the inputs of every sample, and labels."""
    model.eval()
    found, labels = [], []
    with torch.no_grad(), progress.task("predicting", len(source.samples)) as task:
        for inputs, truth in source.plain(share_of(fabric)):
            with fabric.autocast():
                found.append(function(place(inputs, fabric), source.entry).float().cpu())
            labels.append(truth)
            task.advance(len(truth))
    return gathered(fabric, found), gathered(fabric, labels)


def score(model: TransferModel, source: Source, *, fabric: Fabric) -> Score:
    """How the model does on the samples."""
    # Everybody has all logits, but what follows from them must not hang on how each machine rounds.
    return fabric.broadcast(score_logits(*logits(model, source, fabric=fabric)))


def score_logits(found: Tensor, truth: Tensor) -> Score:
    """The score of logits [N, C] where the labels [N] are `truth`."""
    right = (found.argmax(1) == truth).float()
    members = torch.bincount(truth)
    recall = torch.bincount(truth, right)[members > 0] / members[members > 0]
    return Score(
        loss=float(F.cross_entropy(found, truth)),
        calibrated_loss=float(F.cross_entropy(found / fit_temperature(found, truth), truth)),
        accuracy=float(right.mean()),
        mean_recall=float(recall.mean()),
    )
