"""A model over a list of samples: embeddings, logits, loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.batches import Batches
from zoo.nn.engine import place
from zoo.nn.model import TransferModel
from zoo.progress import Progress, Silent


@dataclass(frozen=True, slots=True)
class Score:
    """Mean cross entropy and the share of right answers."""

    loss: float
    accuracy: float


def embeddings(
    model: TransferModel, batches: Batches, *, fabric: Fabric, progress: Progress, what: str
) -> tuple[Tensor, Tensor]:
    """Embeddings [N, num_features] float32 and labels [N], on the CPU; the model is put into eval mode."""
    model.eval()
    return _over(model.embed, batches, fabric, progress, f"features of {what}")


def logits(
    model: TransferModel, batches: Batches, *, fabric: Fabric, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] float32 and labels [N], on the CPU; the model is put into eval mode."""
    model.eval()
    return _over(model, batches, fabric, progress or Silent(), "predicting")


def score(model: TransferModel, batches: Batches, *, fabric: Fabric) -> Score:
    """Loss and accuracy of the model on the samples."""
    found, truth = logits(model, batches, fabric=fabric)
    return Score(float(F.cross_entropy(found, truth)), float((found.argmax(1) == truth).float().mean()))


def _over(
    function: Callable[[Tensor], Tensor], batches: Batches, fabric: Fabric, progress: Progress, description: str
) -> tuple[Tensor, Tensor]:
    found, labels = [], []
    with torch.no_grad(), progress.task(description, len(batches.samples)) as task:
        for images, truth in batches.plain():
            with fabric.autocast():
                found.append(function(place(images, fabric)).float().cpu())
            labels.append(truth)
            task.advance(len(truth))
    return torch.cat(found), torch.cat(labels)
