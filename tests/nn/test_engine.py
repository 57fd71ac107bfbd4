"""Mixed precision, as far as a processor shows it."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.artifacts.runs import RunFolder
from zoo.finetune.resolve import Environment
from zoo.nn.build import load_run_model
from zoo.nn.engine import Autocast


def test_a_network_gets_its_inputs_as_they_are() -> None:
    """In evaluation they do not pass through Lightning's wrapper, which would round them."""
    seen = []

    class Network(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.dtype)
            return inputs @ torch.ones(2, 2)

    fabric = Fabric(accelerator="cpu", devices=1, plugins=[Autocast("bf16-mixed", "cpu")])
    fabric.setup_module(Network())(torch.full((1, 2), 1.001))
    assert seen == [torch.float32]
    assert fabric.strategy.precision.precision == "bf16-mixed"


def test_logits_are_never_rounded_to_half_precision(run: Path, environment: Environment) -> None:
    model, _ = load_run_model(RunFolder.open(run), environment.catalogue)
    features = torch.randn(64, model.head.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.classify(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(model.classify(features), expected)
