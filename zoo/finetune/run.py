"""From a request to a finished run folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from zoo.artifacts.files import sha256_file
from zoo.artifacts.runs import ModelRecord, RunFolder
from zoo.artifacts.versions import package_versions
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet
from zoo.data.store import ImageStore, check_images
from zoo.errors import DataError, RunError, UsageError
from zoo.finetune.auto import settle
from zoo.finetune.job import Job
from zoo.finetune.joining import join_backbones
from zoo.finetune.launch import SharedRun, in_processes
from zoo.finetune.plan import Group, Plan, make_plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, Resolved, head_options, open_data, resolve
from zoo.finetune.sources import Sources
from zoo.nn.adapters import adapter_params
from zoo.nn.backbone import Backbone
from zoo.nn.build import build_model, build_source_head, require_plugins
from zoo.nn.engine import find_accelerator, make_fabric
from zoo.nn.model import TransferModel
from zoo.nn.team import Seat, join
from zoo.progress import Progress, Silent
from zoo.runtime.threads import available_threads

_UNEVEN = 10
"""Where the most frequent class has so many times as many images as the rarest, a remark tells how to balance them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What `finetune` would do."""

    plan: Plan
    why: str
    """Why this strategy."""
    groups: list[Group]
    data: DataSet


def dry_run(request: FinetuneRequest, environment: Environment, progress: Progress) -> DryRun:
    """What `finetune` would train, part by part, without training or writing anything."""
    parts = resolve(request, environment, progress)
    data = open_data(request, environment, progress)
    request, resolved, _ = join_backbones(request, parts, data, environment, progress)
    request, why = _settle(request, data, resolved)
    plan = make_plan(request, resolved.staged, resolved.input, data)
    model = _build(request, resolved, resolved.record(data.classes, head_options(resolved, request)))
    return DryRun(plan=plan, why=why, groups=_groups(plan, model), data=data)


def finetune(request: FinetuneRequest, out: Path, environment: Environment, progress: Progress) -> dict[str, Any]:
    """Trains as asked into the new run folder `out` and gives its result record.

    With `compare_scratch` that of the twin is in it under `scratch`. Raises the errors of `zoo.errors`; after
    InterruptedTrainingError (Ctrl-C) `resume` goes on.
    """
    RunFolder.check_free(out)
    parts = resolve(request, environment, progress)
    return _begin(request, parts, open_data(request, environment, progress), out, environment, progress)


def finetune_on(
    data: DataSet, request: FinetuneRequest, out: Path, environment: Environment, progress: Progress
) -> dict[str, Any]:
    """Like `finetune`, on images that are already split: what `request` says of the data is not looked at."""
    RunFolder.check_free(out)
    return _begin(request, resolve(request, environment, progress), data, out, environment, progress)


def _begin(
    request: FinetuneRequest,
    parts: list[Resolved],
    data: DataSet,
    out: Path,
    environment: Environment,
    progress: Progress,
) -> dict[str, Any]:
    request, resolved, joint = join_backbones(request, parts, data, environment, progress)
    request, why = _settle(request, data, resolved)
    if request.compare_scratch and not data.of("val"):
        request = replace(request, track_test=True)  # the curves have nothing else to show; they choose nothing
    record = resolved.record(data.classes, head_options(resolved, request))
    # Everything that can be refused is refused before the folder exists, and what is quick to tell comes first.
    plan = make_plan(request, resolved.staged, resolved.input, data)
    if request.trials is not None:
        from zoo.finetune.space import search_space  # here, since Optuna takes its time to load

        search_space(request, resolved, plan)
    if request.co_tuning:
        build_source_head(resolved.backbone, resolved.weights)
    find_accelerator(request.device, request.devices)
    model = _build(request, resolved, record)
    groups = _groups(plan, model)
    store = _store(data, resolved)
    threads = request.threads or available_threads()
    data, skipped = check_images(data, store, on_bad=request.on_bad_sample, threads=threads, progress=progress)
    run = RunFolder.create(out)
    with _alone(run):
        run.write("environment", package_versions())
        run.write("dataset", {**data.to_json(), "skipped": skipped})
        run.write_model(asdict(request), record)
        if joint is not None:
            run.decide("where backbones join", lambda: joint)
        progress.say(f"strategy {request.strategy}: {run.decide('why this strategy', lambda: why)}")
        progress.say(_summary(plan, groups))
        fewest, most = _extremes(data)
        if most >= _UNEVEN * fewest and not request.balance:
            progress.say(f"classes have {fewest} to {most} training images: --balance makes rare ones count as much")
        # The plan is made once more there, for the images that are really used: a resumed run knows no others.
        result = _finish(run, request, data, resolved, environment, progress, store=store, model=model)
        return _with_twin(result, request, run, environment, progress)


def resume(out: Path, environment: Environment, progress: Progress, *, devices: int | None = None) -> dict[str, Any]:
    """Goes on with the run in `out`, ending with the very weights an uninterrupted run would have; its result record.

    A finished run gives its result at once. Raises DataError where the data has changed since, RunError where `out`
    is no run, UsageError where it began with another number of devices than `devices`.
    """
    run = RunFolder.open(out)
    if run.members:
        return run.read("result")  # a cascade is there once it is whole
    request, data = _read_records(run)
    if devices not in (None, request.devices):
        raise UsageError(f"--devices {devices}: {out} began with {request.devices} and can only go on so; leave it out")
    with _alone(run):
        if run.is_complete:
            return _with_twin(run.read("result"), request, run, environment, progress)
        record = run.read_model()
        require_plugins(record, environment.catalogue)
        resolved = _resolve(request, data, environment, progress)
        if resolved.record(data.classes, head_options(resolved, request)).weights_sha256 != record.weights_sha256:
            raise RunError(f"pretrained weights have changed since {out} began; start a new run")
        find_accelerator(request.device, request.devices)
        _check_unchanged(data, progress)
        result = _finish(run, request, data, resolved, environment, progress)
        return _with_twin(result, request, run, environment, progress)


def open_sources(
    out: Path, environment: Environment, progress: Progress, *, like: FinetuneRequest | None = None
) -> Sources:
    """The images of the run in `out` as its backbone, with its pretrained weights, takes them in.

    It computes where it did, or with the device and the threads of `like`.
    """
    run = RunFolder.open_complete(out)
    request, data = _read_records(run)
    if like is not None:
        request = replace(request, device=like.device, threads=like.threads)
    resolved = _resolve(request, data, environment, progress)
    return _sources(request, resolved, run.read_model(), data, run, environment, progress)


def probe_sources(
    request: FinetuneRequest, data: DataSet, run: RunFolder, environment: Environment, progress: Progress
) -> Sources:
    """The images of `data` as a probe of the backbone of `request`, a single one, would take them in.

    Nothing of it is written into `run`.
    """
    request = replace(request, strategy="probe")
    [resolved] = resolve(request, environment, progress)
    record = resolved.record(data.classes, head_options(resolved, request))
    return _sources(request, resolved, record, data, run, environment, progress)


def _sources(
    request: FinetuneRequest,
    resolved: Resolved,
    record: ModelRecord,
    data: DataSet,
    run: RunFolder,
    environment: Environment,
    progress: Progress,
) -> Sources:
    return Sources(
        request=request,
        resolved=resolved,
        data=data,
        plan=make_plan(request, resolved.staged, resolved.input, data),
        store=_store(data, resolved),
        model=_build(request, resolved, record),
        fabric=make_fabric(request.device, request.threads or available_threads()),
        environment=environment,
        progress=progress,
        run=run,
    )


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """Keeps other processes from working on a run for the length of a `with` block; a killed one keeps nobody.

    Raises RunError where one does already.
    """
    try:
        lock = FileLock(run.path / ".lock").acquire(timeout=0)
    except Timeout:
        raise RunError(f"another process works on this run: {run.path}; wait for it or end it first") from None
    with lock:
        yield


def _extremes(data: DataSet) -> tuple[int, int]:
    """The fewest and the most training images that a class has."""
    counts = Counter(sample.label for sample in data.of("train")).values()
    return min(counts), max(counts)


def _read_records(run: RunFolder) -> tuple[FinetuneRequest, DataSet]:
    """What was asked in a run, and the data it trains on."""
    try:
        return FinetuneRequest(**run.read("request")["request"]), DataSet.from_json(run.read("dataset"))
    except (KeyError, TypeError) as error:
        raise RunError(f"records of {run.path} do not fit: {error}; start the run again") from None


def _finish(
    run: RunFolder,
    request: FinetuneRequest,
    data: DataSet,
    resolved: Resolved,
    environment: Environment,
    progress: Progress,
    *,
    store: ImageStore | None = None,
    model: TransferModel | None = None,
) -> dict[str, Any]:
    """Takes a run whose records are written to its end, here or in several processes, and gives its result record."""
    if request.devices > 1:
        recipe = environment.catalogue.recipe
        in_processes(request.devices, _take_part, run.path, recipe, environment.cache, environment.mirror, progress)
        return run.read("result")
    job = Job(
        request=request,
        resolved=resolved,
        data=data,
        plan=make_plan(request, resolved.staged, resolved.input, data),
        store=store or _store(data, resolved),
        model=model or _build(request, resolved, run.read_model()),
        fabric=make_fabric(request.device, request.threads or available_threads()),
        environment=environment,
        progress=progress,
        run=run,
    )
    return _train(job)


def _take_part(
    seat: Seat,
    out: Path,
    recipe: tuple[set[str], Sequence[dict[str, Any]]],
    cache: Path,
    mirror: str | None,
    progress: Progress,
) -> None:
    """One of several processes takes the run in `out` to its end; what it needs comes from the run's records."""
    environment = Environment(catalogue=Catalogue.installed(*recipe), cache=cache, mirror=mirror)
    request, data = _read_records(RunFolder.open(out))
    resolved = _resolve(request, data, environment, progress)
    threads = request.threads or max(1, available_threads() // seat.world)
    fabric = join(seat, device=request.device, threads=threads)
    run = SharedRun(out, fabric)
    job = Job(
        request=request,
        resolved=resolved,
        data=data,
        plan=make_plan(request, resolved.staged, resolved.input, data),
        store=_store(data, resolved),
        model=_build(request, resolved, run.read_model()),
        fabric=fabric,
        environment=environment,
        progress=progress if fabric.is_global_zero else Silent(),
        run=run,
    )
    with _fitting(job):
        job.finish()


def _train(job: Job) -> dict[str, Any]:
    """The result of a job, or of the best of the trials it asks for."""
    with _fitting(job):
        if job.request.trials is None:
            return job.finish()
        from zoo.finetune.search import search

        return search(job)


@contextmanager
def _fitting(job: Job) -> Iterator[None]:
    """Says what to do where the memory of a GPU does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise RunError(
            f"memory of the GPU is too small for batches of {job.plan.batch_size} images: {reason}; give a smaller "
            "--batch-size or --input-size"
        ) from None


def _with_twin(
    result: dict[str, Any], request: FinetuneRequest, run: RunFolder, environment: Environment, progress: Progress
) -> dict[str, Any]:
    """The result, with that of the same architecture from random weights where the request asks to compare."""
    if not request.compare_scratch:
        return result
    if (run.scratch / "request.json").is_file():
        return {**result, "scratch": resume(run.scratch, environment, progress)}
    shutil.rmtree(run.scratch, ignore_errors=True)  # cut off before all records were written
    return {**result, "scratch": finetune(request.scratch_twin(), run.scratch, environment, progress)}


def _resolve(request: FinetuneRequest, data: DataSet, environment: Environment, progress: Progress) -> Resolved:
    """What a run that has begun works with."""
    return join_backbones(request, resolve(request, environment, progress), data, environment, progress)[1]


def _settle(request: FinetuneRequest, data: DataSet, resolved: Resolved) -> tuple[FinetuneRequest, str]:
    def stage_params() -> list[int]:
        return _stage_params(resolved.staged.split(resolved.backbone.spec.build()))

    return settle(request, data, stage_params, upstream_stages=resolved.upstream_stages)


def _store(data: DataSet, resolved: Resolved) -> ImageStore:
    """Images large enough for crops of a quarter of them."""
    return ImageStore(data, enough=2 * max(resolved.input.height, resolved.input.width))


def _build(request: FinetuneRequest, resolved: Resolved, record: ModelRecord) -> TransferModel:
    return build_model(resolved.backbone, resolved.head, record, weights=resolved.weights, seed=request.seed)


def _check_unchanged(data: DataSet, progress: Progress) -> None:
    with progress.task("checking files", len(data.samples)) as task:
        for sample in data.samples:
            path = data.path(sample)
            if not path.is_file() or sha256_file(path) != sample.sha256:
                raise DataError(f"data has changed since the run began: {path}; restore it or start a new run")
            task.advance()


def _groups(plan: Plan, model: TransferModel) -> list[Group]:
    kind = plan.strategy.adapters
    added = adapter_params(model, kind=kind, rank=plan.rank) if kind else None
    return plan.groups(_stage_params(model.backbone), _params(model.backbone.pool), _params(model.head), added)


def _summary(plan: Plan, groups: Sequence[Group]) -> str:
    """What is trained and how fast, on one line."""
    trained = [group for group in groups if not group.frozen]
    share = f"{sum(group.params for group in trained):,} of {sum(group.params for group in groups):,} parameters"
    at = "at most" if plan.strategy.surgical else "at"
    parts = [f"{group.name} {at} {group.lr:.1e}" if group.lr else f"{group.name} computed" for group in trained]
    return f"trains {share}: {', '.join(parts)}; the head is new"


def _stage_params(backbone: Backbone) -> list[int]:
    return [_params(stage) for stage in backbone.stages]


def _params(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
