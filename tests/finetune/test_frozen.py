"""What is frozen stays as it was, bit for bit: every backbone of zoo_torchvision under every strategy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import make_folder
from safetensors.torch import save_file

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.finetune.strategies import STRATEGIES
from zoo.nn.backbone import Backbone
from zoo.nn.build import load_run_model
from zoo.nn.model import state_digest
from zoo.progress import Silent

CATALOGUE = Catalogue.installed({"torchvision", "heads"})
SMALL = 64
NAMES = [entry.spec.name for entry in CATALOGUE.backbones]
QUICK = ("resnet18", "mobilenet_v2", "squeezenet1_1")


def _digests(backbone: Backbone) -> list[str]:
    return [state_digest([module]) for module in (*backbone.stages, backbone.pool)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in QUICK else pytest.mark.exhaustive) for n in NAMES]
)
def test_frozen_stages_never_change(name: str, environment: Environment, tmp_path: Path) -> None:
    spec = CATALOGUE.find_backbone(f"torchvision/{name}")[0].spec
    torch.manual_seed(0)
    native = spec.build()
    weights = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in native.state_dict().items()}, weights)
    before = _digests(spec.split(native))
    stages = len(spec.stages)
    data = make_folder(tmp_path / "data", train=2, test=1)
    for strategy in STRATEGIES:
        if STRATEGIES[strategy].adapters:
            continue  # they change every stage, when they are merged: see test_adapters
        trains = STRATEGIES[strategy].trains_backbone
        request = FinetuneRequest(
            data=str(data),
            backbone=f"torchvision/{name}",
            weights=None if strategy == "scratch" else str(weights),
            strategy=strategy,
            freeze_stages=stages // 2 if strategy == "partial" else None,
            epochs=3 if trains else None,
            cache="never" if trains else "auto",  # the frozen stages are to be run, in every step
            input_size=None if spec.input.fixed_size else SMALL,
            val_share=0.0,
            batch_size=8,
            device="cpu",
        )
        out = tmp_path / strategy
        result = finetune(request, out, environment, Silent())
        after = _digests(load_run_model(RunFolder.open(out), CATALOGUE)[0].backbone)
        frozen = result["frozen_stages"]
        kept = [then == now for then, now in zip(before, after, strict=True)]
        assert frozen == {"probe": stages, "partial": stages // 2}.get(strategy, 0)
        assert kept[:frozen] == [True] * frozen, strategy
        # What is not frozen was trained, so that the comparison above can fail; a pool may have nothing to train.
        assert not any(kept[frozen:stages]), strategy
