"""From a request to a finished run folder."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import nn

from zoo import __version__
from zoo.artifacts.files import sha256_file, write_atomically
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet, Split
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.errors import DataError, RunError, ZooError
from zoo.finetune.cache import FeatureCache
from zoo.finetune.checkpoint import Position
from zoo.finetune.events import tell_plugins
from zoo.finetune.features import Features
from zoo.finetune.loop import Splits, Training
from zoo.finetune.plan import Group, Plan, make_plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Resolved, head_options, resolve
from zoo.nn.batches import Batches
from zoo.nn.build import build_model
from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import make_fabric, place
from zoo.nn.head_fit import fit_head
from zoo.nn.inference import logits, score_logits
from zoo.nn.linear import Labelled
from zoo.nn.model import TransferModel, state_digest
from zoo.nn.taps import PooledTaps
from zoo.progress import Progress
from zoo.runtime.threads import available_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the caller's surroundings give: installed plugins, where the cache is, where downloads come from."""

    catalogue: Catalogue
    cache: Path
    mirror: str | None = None


def dry_run(
    request: FinetuneRequest, environment: Environment, progress: Progress
) -> tuple[Plan, list[Group], DataSet]:
    """What `finetune` would train, part by part, without training or writing anything."""
    resolved = resolve(request, environment.catalogue, cache=environment.cache, mirror=environment.mirror)
    data = _open(request, environment, progress)
    plan = make_plan(request, resolved.backbone.spec, resolved.input, data)
    model = _build(request, resolved, resolved.record(data.classes, head_options(resolved, request)))
    return plan, plan.groups([_params(stage) for stage in model.backbone.stages], _params(model.head)), data


def finetune(request: FinetuneRequest, out: Path, environment: Environment, progress: Progress) -> dict[str, Any]:
    """Trains as asked into the new run folder `out` and gives its result record.

    Raises the errors of `zoo.errors`; after InterruptedTrainingError (Ctrl-C) `resume` goes on.
    """
    resolved = resolve(request, environment.catalogue, cache=environment.cache, mirror=environment.mirror)
    data = _open(request, environment, progress)
    record = resolved.record(data.classes, head_options(resolved, request))
    # Everything that can be refused is refused before the folder exists, and what is quick to tell comes first.
    make_plan(request, resolved.backbone.spec, resolved.input, data)
    fabric = _fabric(request)
    model = _build(request, resolved, record)
    store = ImageStore(data)
    threads = request.threads or available_threads()
    data, skipped = check_images(data, store, on_bad=request.on_bad_sample, threads=threads, progress=progress)
    run = RunFolder.create(out)
    run.write("environment", _versions())
    run.write("dataset", {**data.to_json(), "skipped": skipped})
    run.write_model(asdict(request), record)
    return _Job(
        request=request,
        resolved=resolved,
        data=data,
        store=store,
        model=model,
        fabric=fabric,
        environment=environment,
        progress=progress,
    ).finish(run)


def resume(out: Path, environment: Environment, progress: Progress) -> dict[str, Any]:
    """Goes on with the run in `out`, ending with the very weights an uninterrupted run would have; its result record.

    A finished run gives its result at once. Raises DataError where the data has changed since, RunError where `out`
    is no run.
    """
    run = RunFolder.open(out)
    if run.is_complete:
        return run.read("result")
    try:
        request = FinetuneRequest(**run.read("request")["request"])
        data = DataSet.from_json(run.read("dataset"))
    except (KeyError, TypeError) as error:
        raise RunError(f"records of {out} do not fit: {error}; start the run again") from None
    record = run.read_model()
    resolved = resolve(request, environment.catalogue, cache=environment.cache, mirror=environment.mirror)
    if resolved.record(data.classes, head_options(resolved, request)).weights_sha256 != record.weights_sha256:
        raise RunError(f"pretrained weights have changed since {out} began; start a new run")
    _check_unchanged(data, progress)
    fabric = _fabric(request)
    return _Job(
        request=request,
        resolved=resolved,
        data=data,
        store=ImageStore(data),
        model=_build(request, resolved, record),
        fabric=fabric,
        environment=environment,
        progress=progress,
    ).finish(run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What training or fitting came to: logits and labels of the splits it did not see, before calibration."""

    position: Position
    val: Labelled | None
    test: Labelled | None
    fitted: tuple[Split, ...]
    """The splits the final weights were fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One fine-tuning, new or resumed, with everything it works on."""

    request: FinetuneRequest
    resolved: Resolved
    data: DataSet
    store: ImageStore
    model: TransferModel
    fabric: Fabric
    environment: Environment
    progress: Progress

    @property
    def plan(self) -> Plan:
        """The plan for the images that are really used: a resumed run knows no others."""
        return make_plan(self.request, self.resolved.backbone.spec, self.resolved.input, self.data)

    def finish(self, run: RunFolder) -> dict[str, Any]:
        """Takes the run to its end, from its checkpoint where there is one, and gives its result record."""
        model, plan = self.model, self.plan
        model.keep_statistics = plan.keep_statistics
        model.freeze(plan.freeze_stages)
        place(model, self.fabric)
        frozen_before = state_digest(model.frozen_modules())
        checkpoint = run.checkpoint / "state.safetensors"
        outcome = self._train(run, checkpoint) if plan.strategy.trains_backbone else self._probe()
        if state_digest(model.frozen_modules()) != frozen_before:
            raise ZooError(
                f"frozen stages of {self.resolved.backbone.id} changed in training; report this as a bug of Zoo"
            )
        if outcome.val is not None:
            found, truth = outcome.val
            model.temperature.fill_(fit_temperature(found, truth))
        held_out = {name: pair for name, pair in (("val", outcome.val), ("test", outcome.test)) if pair is not None}
        scores = {name: score_logits(*pair) for name, pair in held_out.items()}
        val, test = scores.get("val"), scores.get("test")
        temperature = model.temperature.cpu()
        run.write_predictions({name: (pair[0] / temperature).softmax(1).numpy() for name, pair in held_out.items()})
        write_atomically(run.weights, lambda path: save_file(_weights(model), path))
        position = outcome.position
        train_images = sum(len(self.data.of(split)) for split in outcome.fitted)
        result = {
            "run": str(run.path),
            "strategy": plan.strategy.name,
            "backbone": self.resolved.backbone.id,
            "val_accuracy": val.accuracy if val else None,
            "test_accuracy": test.accuracy if test else None,
            "epochs": position.step / math.ceil(train_images / plan.batch_size),
            "steps": position.step,
            "best_step": position.best_step if val else position.step,
            "seconds": position.seconds,
            "train_images": train_images,
            "fitted_splits": list(outcome.fitted),
            "frozen_stages": plan.freeze_stages,
            "frozen_sha256": frozen_before,
            "weights_sha256": sha256_file(run.weights),
            "plan": plan.to_json(),
        }
        run.write("result", result)
        checkpoint.unlink(missing_ok=True)
        tell_plugins(self.environment.catalogue.plugins, run.path, "done", result)
        return run.read("result")

    def _probe(self) -> _Outcome:
        """Fits the head on features, each image having gone through the backbone once."""
        began = time.monotonic()
        features, test = self._features(), self.data.of("test")
        val = self._fit_head(features, refit=True)
        self.model.eval()
        found = None
        if test:
            embeddings, truth = features.of(test, "test images")
            with torch.no_grad():
                found = self.model.classify(embeddings.to(self.fabric.device)).float().cpu(), truth
        # A head that is solved in closed form is solved for the validation images too; others stop at training ones.
        linear = isinstance(self.model.head, nn.Linear)
        fitted: tuple[Split, ...] = ("train", "val") if linear else ("train",)
        return _Outcome(position=Position(seconds=time.monotonic() - began), val=val, test=found, fitted=fitted)

    def _train(self, run: RunFolder, checkpoint: Path) -> _Outcome:
        """Trains what is not frozen."""
        if self.plan.strategy.head_from_probe and not checkpoint.is_file():
            self._fit_head(self._features(), refit=False)
        train, val, test = (self._batches(split) for split in ("train", "val", "test"))
        assert train is not None  # a data set without training images is refused when it is opened

        def record(row: Mapping[str, Any]) -> None:
            run.append_metrics(row)
            tell_plugins(self.environment.catalogue.plugins, run.path, "evaluation", row)

        training = Training(
            self.model,
            plan=self.plan,
            splits=Splits(train=train, val=val, tracked=test if self.request.track_test else None),
            loss=self.resolved.head.spec.loss,
            fabric=self.fabric,
            seed=self.request.seed,
            checkpoint=checkpoint,
            checkpoint_seconds=self.request.checkpoint_seconds,
            record=record,
        )
        resumed = training.restore()
        run.truncate_metrics(training.position.step if resumed else -1)
        training.run(self.progress)
        held_out = [logits(self.model, split, fabric=self.fabric) if split else None for split in (val, test)]
        return _Outcome(position=training.position, val=held_out[0], test=held_out[1], fitted=("train",))

    def _batches(self, split: Split) -> Batches | None:
        samples = self.data.of(split)
        if not samples:
            return None
        return Batches(samples, store=self.store, input_spec=self.resolved.input, batch_size=self.plan.batch_size)

    def _features(self) -> Features:
        """Embeddings of the pretrained backbone."""
        spec, size, cache = self.resolved.backbone.spec, self.resolved.input, self.environment.cache
        area = size.height * size.width / (spec.input.height * spec.input.width)
        return Features(
            PooledTaps(self.model.backbone, spec, ()),
            input_spec=size,
            macs=round(spec.macs * area),
            store=self.store,
            fabric=self.fabric,
            cache=FeatureCache(cache / "features", progress=self.progress),
            engines=cache / "engines",
            progress=self.progress,
        )

    def _fit_head(self, features: Features, *, refit: bool) -> Labelled | None:
        """Puts the best head on the pretrained embeddings; logits and labels of the validation images."""
        train, val = self.data.of("train"), self.data.of("val")
        seen = features.of(train, "training images")
        held_out = features.of(val, "validation images") if val else None
        self.model.head.cpu()
        unseen = fit_head(
            self.model.head,
            train=seen,
            val=held_out,
            loss=self.resolved.head.spec.loss,
            seed=self.request.seed,
            refit=refit,
            progress=self.progress,
        )
        self.model.head.to(self.fabric.device)
        return unseen


def _open(request: FinetuneRequest, environment: Environment, progress: Progress) -> DataSet:
    return open_dataset(
        request.data,
        cache=environment.cache,
        progress=progress,
        seed=request.seed,
        shots=request.shots,
        val_share=request.val_share,
    )


def _build(request: FinetuneRequest, resolved: Resolved, record: ModelRecord) -> TransferModel:
    return build_model(resolved.backbone, resolved.head, record, weights=resolved.weights, seed=request.seed)


def _fabric(request: FinetuneRequest) -> Fabric:
    return make_fabric(request.device, request.threads or available_threads())


def _check_unchanged(data: DataSet, progress: Progress) -> None:
    with progress.task("checking files", len(data.samples)) as task:
        for sample in data.samples:
            path = data.path(sample)
            if not path.is_file() or sha256_file(path) != sample.sha256:
                raise DataError(f"data has changed since the run began: {path}; restore it or start a new run")
            task.advance()


def _weights(model: TransferModel) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _params(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _versions() -> dict[str, Any]:
    packages = ("torch", "torchvision", "lightning-fabric", "numpy", "pillow")
    return {
        "zoo": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        **{name: version(name) for name in packages},
    }
