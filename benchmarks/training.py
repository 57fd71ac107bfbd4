"""Zoo's training loop over batches of a benchmark's own: nothing is evaluated, recorded or checked in between."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from zoo.data.dataset import DataSet
from zoo.finetune.loop import Splits, Training
from zoo.finetune.objective import Network, Objective
from zoo.finetune.plan import make_plan
from zoo.finetune.request import FinetuneRequest
from zoo.nn.batches import Source
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.specs import BackboneSpec


def train(
    model: TransferModel,
    spec: BackboneSpec,
    data: DataSet,
    source: Source,
    batch: int,
    fabric: Fabric,
    *,
    compiles: bool = False,
) -> None:
    """One pass of full fine-tuning over `source`, whose batches are of `batch` images."""
    request = FinetuneRequest(data="", backbone=spec.name, strategy="full", epochs=1, batch_size=batch)
    plan = make_plan(request, spec, spec.input, data)
    model.keep_statistics = plan.keep_statistics
    with tempfile.TemporaryDirectory() as folder:
        Training(
            Network(model),
            plan=replace(plan, patience=0, steps_per_epoch=len(source)),
            splits_of=lambda _: Splits(train=source, val=None, test=None),
            compiles=lambda *_: compiles,
            check_frozen=lambda _: None,
            track_test=False,
            objective=Objective(loss=nn.functional.cross_entropy),
            fabric=fabric,
            seed=0,
            checkpoint=Path(folder) / "state.safetensors",
            checkpoint_seconds=1e9,
            record=lambda _: None,
        ).run(Silent())
