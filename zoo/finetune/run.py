"""From a request to a finished run folder."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from safetensors.torch import save_file

from zoo import __version__
from zoo.artifacts.files import sha256_file, write_atomically
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.errors import DataError, RunError, UsageError, ZooError
from zoo.finetune.events import tell_plugins
from zoo.finetune.loop import Splits, Training
from zoo.finetune.plan import Group, Plan, make_plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Resolved, head_options, resolve
from zoo.nn.batches import Batches
from zoo.nn.build import build_model
from zoo.nn.engine import make_fabric
from zoo.nn.head_fit import fit_head
from zoo.nn.inference import embeddings, score
from zoo.nn.model import TransferModel, state_digest
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
    plan = make_plan(request, resolved.backbone.spec, resolved.input, data)
    record = resolved.record(data.classes, head_options(resolved, request))
    # Everything that can be refused is refused before the folder exists.
    fabric = make_fabric(request.device, request.threads or available_threads())
    model = _build(request, resolved, record)
    store = ImageStore(data)
    data, skipped = check_images(data, store, on_bad=request.on_bad_sample, progress=progress)
    run = RunFolder.create(out)
    run.write("environment", _versions())
    run.write("dataset", {**data.to_json(), "skipped": skipped})
    run.write_model(asdict(request), record)
    return _train(run, request, plan, model, data, store, fabric, resolved, environment, progress)


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
    plan = make_plan(request, resolved.backbone.spec, resolved.input, data)
    fabric = make_fabric(request.device, request.threads or available_threads())
    model = _build(request, resolved, record)
    return _train(run, request, plan, model, data, ImageStore(data), fabric, resolved, environment, progress)


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


def _train(
    run: RunFolder,
    request: FinetuneRequest,
    plan: Plan,
    model: TransferModel,
    data: DataSet,
    store: ImageStore,
    fabric: Fabric,
    resolved: Resolved,
    environment: Environment,
    progress: Progress,
) -> dict[str, Any]:
    began = time.monotonic()

    def batches(split: Any) -> Batches | None:
        samples = data.of(split)
        return (
            Batches(samples, store=store, preprocess=model.preprocess, batch_size=plan.batch_size) if samples else None
        )

    train, val, test = batches("train"), batches("val"), batches("test")
    if train is None:
        raise DataError(f"no training images: {data.source}; add some")
    model.keep_statistics = plan.keep_statistics
    model.freeze(plan.freeze_stages)
    model.to(fabric.device)
    frozen_before = state_digest(model.frozen_modules())

    def record(row: Mapping[str, Any]) -> None:
        run.append_metrics(row)
        tell_plugins(environment.catalogue.plugins, run.path, "evaluation", row)

    checkpoint = run.checkpoint / "state.safetensors"
    resuming = checkpoint.is_file()
    if plan.strategy.head_from_probe and not resuming:
        _fit_head(model, train, val, resolved, request, fabric, progress)
    step = best_step = 0
    if plan.strategy.trains_backbone:
        training = Training(
            model,
            plan=plan,
            splits=Splits(train=train, val=val, tracked=test if request.track_test else None),
            loss=resolved.head.spec.loss,
            fabric=fabric,
            seed=request.seed,
            checkpoint=checkpoint,
            checkpoint_seconds=request.checkpoint_seconds,
            record=record,
        )
        training.restore()
        run.truncate_metrics(training.position.step if resuming else -1)
        training.run(progress)
        step = training.position.step
        best_step = training.position.best_step if val else step
        seconds = training.position.seconds
    else:
        seconds = time.monotonic() - began
    if state_digest(model.frozen_modules()) != frozen_before:
        raise ZooError(f"frozen stages of {resolved.backbone.id} changed in training; report this as a bug of Zoo")
    val_score = score(model, val, fabric=fabric) if val else None
    test_score = score(model, test, fabric=fabric) if test else None
    write_atomically(run.weights, lambda path: save_file(_weights(model), path))
    result = {
        "run": str(run.path),
        "strategy": plan.strategy.name,
        "backbone": resolved.backbone.id,
        "val_accuracy": val_score.accuracy if val_score else None,
        "test_accuracy": test_score.accuracy if test_score else None,
        "epochs": step / len(train) if step else 0,
        "steps": step,
        "best_step": best_step,
        "seconds": seconds,
        "train_images": len(train.samples),
        "frozen_stages": plan.freeze_stages,
        "frozen_sha256": frozen_before,
        "weights_sha256": sha256_file(run.weights),
        "plan": plan.to_json(),
    }
    run.write("result", result)
    checkpoint.unlink(missing_ok=True)
    tell_plugins(environment.catalogue.plugins, run.path, "done", result)
    return run.read("result")


def _fit_head(
    model: TransferModel,
    train: Batches,
    val: Batches | None,
    resolved: Resolved,
    request: FinetuneRequest,
    fabric: Fabric,
    progress: Progress,
) -> None:
    """Puts the best head on the pretrained embeddings."""
    seen = embeddings(model, train, fabric=fabric, progress=progress, what="training images")
    held_out = embeddings(model, val, fabric=fabric, progress=progress, what="validation images") if val else None
    model.head.cpu()
    fit_head(model.head, train=seen, val=held_out, loss=resolved.head.spec.loss, seed=request.seed, progress=progress)
    model.head.to(fabric.device)


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


__all__ = ["Environment", "UsageError", "dry_run", "finetune", "resume"]
