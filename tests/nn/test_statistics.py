"""Running statistics are those of the weights as they are, over the images they see."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.artifacts.runs import RunFolder
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.finetune.resolve import Environment
from zoo.nn.batches import Batches
from zoo.nn.build import load_run_model
from zoo.nn.engine import make_fabric
from zoo.nn.model import state_digest
from zoo.nn.statistics import estimate_statistics, estimated_statistics
from zoo.progress import Silent


def test_they_are_means_over_batches_and_frozen_ones_stay(
    dataset: Path, run: Path, environment: Environment, tmp_path: Path
) -> None:
    model, record = load_run_model(RunFolder.open(run), environment.catalogue)
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    batches = Batches(data.of("train"), store=ImageStore(data), input_spec=record.input, batch_size=16)
    model.keep_statistics = False
    model.freeze(2)
    frozen = state_digest(model.backbone.stages[:2])
    norm = next(module for module in model.backbone.stages[2].modules() if isinstance(module, nn.BatchNorm2d))
    momentum, inputs = norm.momentum, list[Tensor]()
    norm.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].clone()))
    estimate_statistics(model, batches, policy="none", seed=0, fabric=make_fabric("cpu", 1))
    assert state_digest(model.backbone.stages[:2]) == frozen
    assert (len(inputs), norm.momentum) == (len(batches), momentum)
    means = torch.stack([values.mean((0, 2, 3)) for values in inputs])
    variances = torch.stack([values.transpose(0, 1).flatten(1).var(1) for values in inputs])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, means.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances.mean(0), rtol=1e-4, atol=1e-5)
    usual = state_digest([model])
    norm.running_mean.add_(1)
    moved = state_digest([model])
    with estimated_statistics(model, batches, policy="none", seed=0, fabric=make_fabric("cpu", 1)):
        assert state_digest([model]) == usual
    assert state_digest([model]) == moved
    model.keep_statistics = True
    kept = state_digest([model])
    estimate_statistics(model, batches, policy="none", seed=1, fabric=make_fabric("cpu", 1))
    assert state_digest([model]) == kept
