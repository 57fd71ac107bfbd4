"""What training minimises: the loss of the head, and terms that hold on to what the backbone knew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.average import Weights, trainable
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel

Loss = Callable[[Tensor, Tensor], Tensor]


class Network(nn.Module):
    """What is trained: the model, and beside its head that of the source task where that helps along."""

    def __init__(self, model: TransferModel, source_head: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.source_head = source_head

    def forward(self, inputs: Tensor, entry: int) -> tuple[Tensor, Tensor | None]:
        """Logits [N, C] and, with a source head, those of the source task [N, S], of inputs of stage `entry`."""
        activation, features = self.model.run(inputs, entry)
        source = self.source_head(activation) if self.source_head is not None else None
        return self.model.classify(features), source


class SourceLogits(nn.Module):
    """What a pretrained network says about the classes of its source task."""

    def __init__(self, backbone: Backbone, source_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.source_head = source_head

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, S] of normalised images [N, 3, H, W]."""
        logits: Tensor = self.source_head(self.backbone.run_stages(images))
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """A penalty for leaving the pretrained weights: a/2 |w - w0|^2 on the backbone, b/2 |w|^2 on the head.

    Li et al. 2018 (L2-SP), equation 2; a and b are equal here, as in their experiments.
    """

    model: TransferModel
    weights: Weights
    strength: float

    @classmethod
    def of(cls, model: TransferModel, strength: float) -> StartingPoint:
        """The penalty around the weights the model has now."""
        return cls(model=model, weights=trainable(model), strength=strength)

    def __call__(self) -> Tensor:
        """The penalty at the model's weights."""
        terms = []
        for name, value in self.model.named_parameters():
            if value.requires_grad and name in self.weights:
                moved = value if name.startswith("head.") else value - self.weights[name]
                terms.append(moved.square().sum())
        return self.strength / 2 * torch.stack(terms).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The source task goes on beside the target task: You et al. 2020 (Co-Tuning), equation 3.

    `probabilities` [C, S] are those of source classes given a target class.
    """

    probabilities: Tensor
    weight: float

    @classmethod
    def of(cls, source_logits: Tensor, labels: Tensor, classes: int, weight: float) -> Relation:
        """From source logits [N, S] of images with labels [N]: the mean source probabilities of each class."""
        p = source_logits.float().softmax(1)
        members = F.one_hot(labels, classes).float()
        return cls(probabilities=members.T @ p / members.sum(0).unsqueeze(1), weight=weight)

    def __call__(self, source_logits: Tensor, labels: Tensor) -> Tensor:
        """The weighted cross entropy of source logits [N, S] to what the labels [N] make us expect."""
        return self.weight * F.cross_entropy(source_logits, self.probabilities[labels])


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a batch, from the network's outputs and the labels [N]."""

    loss: Loss
    log_prior: Tensor | None = None
    """Logarithms of the classes' shares [C]: added to the logits while training, they make the trained model treat
    classes as equally frequent (Menon et al. 2021, logit adjustment, with tau = 1)."""
    start: StartingPoint | None = None
    relation: Relation | None = None

    def __call__(self, outputs: tuple[Tensor, Tensor | None], labels: Tensor) -> Tensor:
        """The value to minimise."""
        logits, source = outputs
        if self.log_prior is not None:
            logits = logits + self.log_prior
        value = self.loss(logits, labels)
        if self.start is not None:
            value = value + self.start()
        if self.relation is not None and source is not None:
            value = value + self.relation(source, labels)
        return value
