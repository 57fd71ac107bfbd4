"""How fast each stage should learn, read off the gradients on the data at hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor

from zoo.finetune.objective import Objective
from zoo.nn.engine import place
from zoo.nn.model import TransferModel


def relative_gradients(
    model: TransferModel, batches: Iterable[tuple[Tensor, Tensor]], *, objective: Objective, fabric: Fabric
) -> list[float]:
    """For each stage its gradient norm relative to its weight norm, divided by the largest of these.

    Lee et al. 2023 (Surgical fine-tuning), section 4, Auto-RGN: the larger, the more a stage has to adapt. Averaged
    over `batches` of images and labels; the model is not changed.
    """
    model.eval()
    totals = torch.zeros(len(model.backbone.stages))
    for images, labels in batches:
        with fabric.autocast():
            loss = objective((model(place(images, fabric)), None), labels.to(fabric.device))
        loss.backward()
        for number, stage in enumerate(model.backbone.stages):
            values = [value for value in stage.parameters() if value.grad is not None]
            gradients = [value.grad for value in values if value.grad is not None]
            totals[number] += float(_norm(gradients) / _norm(values).clamp_min(1e-12)) if values else 0.0
        model.zero_grad()
    return [float(value) for value in totals / totals.max().clamp_min(1e-12)]


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    total: Tensor = torch.stack([tensor.detach().norm() for tensor in tensors]).norm()
    return total
