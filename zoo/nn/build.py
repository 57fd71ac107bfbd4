"""A record of a model to the model itself: built, split, weights loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue, HeadEntry
from zoo.catalogue.composites import split
from zoo.errors import PluginError, RunError, UsageError, WeightsError
from zoo.nn.backbone import Backbone
from zoo.nn.composite import Entry, find_backbone
from zoo.nn.engine import derive_seed
from zoo.nn.model import TransferModel
from zoo.nn.surgery import drop_stages
from zoo.nn.taps import feature_widths, make_taps
from zoo.nn.weights import load_into, read_state
from zoo.specs import BackboneSpec

T = TypeVar("T")


def build_model(
    backbone: Entry,
    head: HeadEntry,
    record: ModelRecord,
    *,
    weights: Path | None,
    seed: int,
) -> TransferModel:
    """The untrained model of a record, its backbone from the file `weights` (random, by `seed`, when None).

    Raises PluginError where the plugin's code fails, WeightsError where the file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        spec = drop_stages(backbone.spec, record.drop_stages)
        staged = build_backbone(backbone.id, spec, weights)
        sizes = (sum(feature_widths(spec, record.taps)), len(record.classes))
        module = _call(f"{head.id} cannot be built", head.spec.build, *sizes, record.head_options)
    taps = make_taps(record.taps, spec.stages)
    return TransferModel(backbone=staged, head=module, input_spec=record.input, taps=taps)


def build_backbone(name: str, spec: BackboneSpec, weights: Path | None) -> Backbone:
    """The staged backbone called `name`, its weights from a file, random ones when None.

    Raises PluginError where the plugin's code fails, WeightsError where the file does not fit.
    """
    native = _call(f"{name} cannot be built", spec.build)
    if weights is not None:
        load_into(native, weights, name)
    staged = _call(f"{name} cannot be split", spec.split, native)
    if len(staged.stages) != len(spec.stages):
        raise PluginError(
            f"{name} splits into {len(staged.stages)} stages and declares {len(spec.stages)}; see `zoo plugins check "
            f"{name.partition('/')[0]}`"
        )
    return staged


def build_source_head(backbone: Entry, weights: Path | None) -> nn.Module:
    """The pretrained classifier of the source task, from last activations to logits, its weights from a file.

    Raises UsageError where the backbone or its weights come without one.
    """
    if weights is not None:
        native = _call(f"{backbone.id} cannot be built", backbone.spec.build)
        load_into(native, weights, backbone.id)
        head = _call(f"{backbone.id} cannot be split", backbone.spec.split, native).source_head
        if head is not None:
            return head
    raise UsageError(f"--co-tuning: {backbone.id} has no classifier of its source task; leave it out")


def load_run_model(run: RunFolder, catalogue: Catalogue) -> tuple[TransferModel, ModelRecord]:
    """The trained model of a finished run, in eval mode. Raises RunError where its weights are gone or do not fit."""
    record = run.read_model()
    if not run.weights.is_file():
        raise RunError(f"weights of a run are gone: {run.weights}; restore them or train again")
    require_plugins(record, catalogue)
    backbone = find_backbone(catalogue, record.backbone)
    head = catalogue.find_head(record.head)
    model = build_model(backbone, head, record, weights=None, seed=0)
    try:
        model.load_state_dict(read_state(run.weights))
    except (WeightsError, RuntimeError) as error:
        raise RunError(f"weights of {run.path} do not fit: {' '.join(str(error).split()):.200}") from None
    return model.eval(), record


def require_plugins(record: ModelRecord, catalogue: Catalogue) -> None:
    """Raises PluginError where the plugin of a run's backbone or head is not installed any more."""
    installed = {plugin.name for plugin in catalogue.plugins}
    links = zip(split(record.backbone), split(record.distribution), strict=True)
    for what, name, source in (*(("backbone", *link) for link in links), ("head", record.head, "")):
        plugin = name.partition("/")[0]
        if plugin not in installed:
            distribution, _, version = source.partition(" ")
            hint = f"`pip install {distribution}=={version}`" if version else f"`zoo plugins install {plugin}`"
            raise PluginError(f"the plugin of the run's {what} {name} is not installed: {plugin!r}; {hint}")


def _call(failure: str, function: Callable[..., T], *arguments: Any) -> T:
    """What the plugin's function gives. Raises PluginError where it raises."""
    try:
        return function(*arguments)
    except Exception as error:
        raise PluginError(f"{failure}: {type(error).__name__}: {error}") from error
