"""Probes of backbones, whose heads become parts of one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet, Split
from zoo.data.store import labels
from zoo.export.latency import backbone_latency
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune, open_sources
from zoo.finetune.sources import Sources
from zoo.metrics import calibration_error
from zoo.nn.build import load_run_model
from zoo.nn.calibrate import fit_temperature
from zoo.nn.cascade import Probabilities
from zoo.nn.head_fit import fit_head
from zoo.nn.linear import Labelled
from zoo.nn.model import TransferModel
from zoo.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Member:
    """One backbone with the head that a probe gave it."""

    run: RunFolder
    model: TransferModel
    sources: Sources

    def features(self, split: Split, *, views: int = 1) -> Labelled:
        """What its head sees of the images of a split, [N, views, D], and their labels [N]."""
        return self.sources.features(split, taps=len(self.model.taps), views=views)

    @property
    def widths(self) -> list[int]:
        """How many features each of its taps gives, then how many the embedding has."""
        return self.sources.widths(len(self.model.taps))

    @cached_property
    def latency(self) -> float:
        """Milliseconds that its backbone takes for an image on one thread."""
        resolved = self.sources.resolved
        self.sources.progress.say(f"measuring how long {resolved.backbone.id} takes")
        return backbone_latency(replace(resolved.staged, input=resolved.input))

    def unseen(self, split: Split = "val") -> Tensor:
        """Logarithms of the probabilities [N, C] of validation or test images, by a head that had not seen them."""
        return torch.from_numpy(self.run.read_predictions()[split]).double().clamp_min(1e-12).log()

    def truth(self, split: Split) -> Tensor:
        """Labels [N] of the images of a split."""
        return torch.from_numpy(labels(self.sources.data.of(split)))

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Gives it another head, weight [C, D] and bias [C], whose logits are calibrated."""
        head = cast("nn.Linear", self.model.head)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
            self.model.temperature.fill_(1)


@dataclass(frozen=True, kw_only=True)
class JointHead:
    """One linear head on several inputs side by side, calibrated."""

    weights: Sequence[Tensor]
    """[C, D] of each input."""
    bias: Tensor
    unseen: Labelled
    """Logits [N, C] and labels [N] of the validation images, by a head that had not seen them."""


def probe(request: FinetuneRequest, out: Path, environment: Environment, progress: Progress) -> Member:
    """The probe of the backbone of `request`, made in the new run folder `out`."""
    progress.say(f"probe of {request.backbone}")
    finetune(replace(request, strategy="probe"), out, environment, progress)
    run = RunFolder.open_complete(out)
    model, _ = load_run_model(run, environment.catalogue)
    return Member(run=run, model=model, sources=open_sources(out, environment, progress))


def fit_joint_head(
    train: Labelled,
    val: Labelled,
    *,
    widths: Sequence[Sequence[int]],
    classes: int,
    seed: int,
    balance: bool,
    progress: Progress,
) -> JointHead:
    """One linear head on inputs of `widths`, side by side in features [N, V, D]; fitted on validation images, too."""
    head = nn.Linear(sum(map(sum, widths)), classes)
    unseen = fit_head(
        head,
        train=train,
        val=val,
        loss=F.cross_entropy,
        seed=seed,
        refit=True,
        balance=balance,
        progress=progress,
        widths=[width for each in widths for width in each],
    )
    assert unseen is not None
    temperature = fit_temperature(*unseen)
    weights = (head.weight.detach() / temperature).split([sum(each) for each in widths], 1)
    unseen = unseen[0].double() / temperature, unseen[1]
    return JointHead(weights=weights, bias=head.bias.detach() / temperature, unseen=unseen)


def measured(probabilities: Mapping[str, Probabilities], data: DataSet) -> dict[str, Any]:
    """Accuracies, and the calibration error of test images, of probabilities [N, C] of each split."""
    found: dict[str, Any] = {"val_accuracy": None, "test_accuracy": None, "test_ece": None}
    for split in ("val", "test"):
        if split in probabilities:
            said, truth = probabilities[split], labels(data.of(split))
            right = said.argmax(1) == truth
            found[f"{split}_accuracy"] = float(right.mean())
            if split == "test":
                found["test_ece"] = calibration_error(said.max(1), right)
    return found
