"""Activations at the freeze boundary: kept where that pays, and training on them is the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.artifacts.runs import RunFolder
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.errors import UsageError
from zoo.finetune import boundary
from zoo.finetune.boundary import ActivationBatches, Costs, Prefix, measure_costs, view_count
from zoo.finetune.cache import FeatureCache
from zoo.finetune.extract import Extractor, Surroundings
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.nn.batches import Batches, View
from zoo.nn.build import load_run_model
from zoo.nn.engine import make_fabric
from zoo.nn.model import state_digest
from zoo.progress import Silent


def _request(dataset: Path, **options: Any) -> FinetuneRequest:
    common = {"data": str(dataset), "backbone": "tiny/glyphnet", "device": "cpu", "batch_size": 16, "threads": 1}
    return FinetuneRequest(**common | {"strategy": "partial", "epochs": 8, "patience": 0} | options)


@pytest.mark.parametrize("strategy", ["partial", "gradual"])
def test_without_augmentation_it_makes_no_difference(
    strategy: Any, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    results = {
        cache: finetune(
            _request(dataset, strategy=strategy, cache=cache, augment="none", val_share=0.0),
            tmp_path / cache,
            environment,
            Silent(),
        )
        for cache in ("never", "always")
    }
    phases = results["always"]["plan"]["phases"]
    for number, phase in enumerate(phases):
        made = {
            cache: RunFolder.open(tmp_path / cache).read_decisions()[f"cache of phase {number}"] for cache in results
        }
        assert made["never"]["views"] == 0
        assert made["always"]["views"] == int(phase["freeze_stages"] > 0)
    assert len(phases) == (1 if strategy == "partial" else 4)
    states = [
        load_run_model(RunFolder.open(tmp_path / cache), environment.catalogue)[0].state_dict() for cache in results
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0.01, atol=0.01, msg=name)


def test_each_image_shows_another_view_in_each_epoch(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    entry, _ = environment.catalogue.find_backbone("tiny/glyphnet")
    spec = entry.spec
    around = Surroundings(
        store=ImageStore(data),
        input_spec=spec.input,
        fabric=make_fabric("cpu", 1),
        cache=FeatureCache(tmp_path / "features", progress=Silent()),
        engines=tmp_path / "engines",
        progress=Silent(),
    )
    extractor = Extractor(Prefix(spec.split(spec.build()), 2), name="stages to 2", macs=spec.macs, around=around)
    views = [View(), *(View(policy="affine", seed=0, number=number) for number in (1, 2))]
    source = ActivationBatches(data.samples, extractor=extractor, entry=2, views=views, batch_size=16)
    kept = torch.stack([torch.from_numpy(extractor.of(data.samples, "images", view).copy()) for view in views])
    seen = torch.zeros(len(views), len(data.samples))
    for epoch in range(3):
        for inputs, labels in source.augmented("affine", seed=0, epoch=epoch):
            for row, label in zip(inputs, labels, strict=True):
                view, number = (kept == row).flatten(2).all(2).nonzero()[0].tolist()
                assert data.samples[number].label == label
                seen[view, number] += 1
    assert (seen == 1).all()
    plain = torch.cat([inputs for inputs, _ in source.plain()])
    assert torch.equal(plain, kept[0])
    again = [inputs for inputs, _ in source.augmented("affine", seed=0, epoch=1)]
    for number, (inputs, _) in enumerate(source.augmented("affine", seed=0, epoch=1, start=2)):
        assert torch.equal(inputs, again[number + 2])


def test_measuring_costs_changes_nothing(dataset: Path, run: Path, environment: Environment, tmp_path: Path) -> None:
    model, record = load_run_model(RunFolder.open(run), environment.catalogue)
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    batches = Batches(data.samples, store=ImageStore(data), input_spec=record.input, batch_size=16)
    before = state_digest([model])
    model.freeze(2)
    costs = measure_costs(model, batches, frozen=2, policy="affine", fabric=make_fabric("cpu", 1))
    assert costs is not None
    assert min(costs.read, costs.prefix, costs.suffix, costs.fetch, costs.largest) > 0
    assert state_digest([model]) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activations_too_large_for_half_precision_are_not_kept(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "_HALF_RANGE", 1e-6)
    with pytest.raises(UsageError, match="too large to be kept in half precision; leave it out"):
        finetune(_request(dataset, strategy="partial", cache="always"), tmp_path / "run", environment, Silent())


@pytest.mark.parametrize(("epochs", "views"), [(1, 1), (2, 2), (4, 3), (12, 3), (20, 5), (100, 8)])
def test_views_of_an_image_are_several_and_never_more_than_epochs(epochs: int, views: int) -> None:
    assert view_count(epochs) == views


@pytest.mark.parametrize(
    ("epochs", "change", "pays"),
    [
        (20, {}, True),
        (1, {}, False),  # nothing is seen twice
        (3, {"read": 0.0, "prefix": 0.01, "fetch": 0.0}, False),  # no gain worth giving up fresh views for
        (20, {"suffix": 1.0, "prefix": 0.001, "read": 0.001, "fetch": 0.01}, False),  # a disk slower than the stages
        (20, {"activation_bytes": 10**9}, False),
        (20, {"largest": 1e5}, False),  # beyond float16
        # A GPU that computes faster than one thread reads waits for it, but hardly for 16 of them.
        (20, {"readers": 1, "prefix": 0.001, "suffix": 0.001}, True),
        (20, {"readers": 16, "prefix": 0.0001, "suffix": 0.001, "fetch": 0.001}, False),
    ],
)
def test_the_choice(epochs: int, change: dict[str, Any], pays: bool) -> None:
    values = {"read": 0.005, "prefix": 0.03, "suffix": 0.02, "fetch": 0.0001, "readers": 0}
    values |= {"activation_bytes": 10**5, "largest": 6.0}
    costs = Costs(**values | change)
    chosen, _ = costs.decide(views=view_count(epochs), images=1000, epochs=epochs, val_images=200, evaluations=epochs)
    assert chosen is pays
    counted, _ = costs.decide(
        views=view_count(epochs), images=1000, epochs=epochs, val_images=200, evaluations=epochs, by_counts=True
    )
    representable = change.keys().isdisjoint({"activation_bytes", "largest"})
    assert counted is (epochs > view_count(epochs) and representable)
