"""The verb `recommend`: from a data set to the backbone and the strategy that suit it, and why."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo.artifacts.runs import RunFolder
from zoo.artifacts.versions import package_versions
from zoo.catalogue.registry import packaged_registry
from zoo.catalogue.results import Result, read_results
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.errors import RunError, UsageError, WeightsError
from zoo.export.latency import backbone_latency
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import probe_sources
from zoo.progress import Progress
from zoo.recommend.candidates import Candidate, find_candidates
from zoo.recommend.circumstances import Circumstances
from zoo.recommend.explain import explain
from zoo.recommend.prior import REFERENCE, expect
from zoo.recommend.profile import Profile, profile
from zoo.recommend.race import Entrant, Race
from zoo.recommend.separation import ncti
from zoo.recommend.similarity import SourceStatistics
from zoo.runtime.threads import available_threads

_RACED = 3
"""So many ways to train enter the race."""
_PARAMETER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a backbone may cost; None is no limit."""

    latency_ms: float | None = None
    """For one image, in ONNX Runtime on one thread of this machine."""
    megabytes: float | None = None
    """Of parameters in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Affordable:
    """A candidate within the limits."""

    candidate: Candidate
    latency_ms: float
    megabytes: float


def recommend(
    asked: FinetuneRequest, out: Path, environment: Environment, progress: Progress, *, limits: Limits
) -> dict[str, Any]:
    """The backbone and the strategy for the training `asked`, which leaves both open, as the record in `out`.

    Every backbone with weights at hand and within `limits` is profiled on the training images. What others gained from
    each strategy with as much data (the results in registries) says what to expect of it; the likeliest few race for
    part of their steps, judged by validation images where there are any. Test images are not looked at. `out` keeps
    what was decided: the same call goes on where it was cut off. Raises UsageError where `out` holds another
    recommendation or nothing fits the limits, WeightsError where no pretrained weights are at hand.
    """
    began = time.monotonic()
    run = _open(out, asked, limits)
    if run.is_complete:
        return run.read("recommendation")
    data = _data(asked, environment, progress)
    here, elsewhere = find_candidates(environment.catalogue, environment.cache)
    if not here:
        raise WeightsError(
            f"no pretrained weights at hand: {len(elsewhere)} installed backbones have theirs elsewhere; get some with "
            "`zoo weights fetch NAME`"
        )
    affordable = [each for each in (_measure(run, candidate, progress) for candidate in here) if _fits(each, limits)]
    if not affordable:
        raise UsageError(f"no backbone within the limits: {_shown(limits)}; raise them")
    profiles = {
        each.candidate.id: _profile(run, each.candidate, asked, data, environment, progress) for each in affordable
    }
    ranking = sorted(affordable, key=lambda each: profiles[each.candidate.id].accuracy, reverse=True)
    best = profiles[ranking[0].candidate.id]
    circumstances = Circumstances.of(best)
    results = read_results([packaged_registry(), *environment.catalogue.registries])
    entrants = _entrants([profiles[each.candidate.id] for each in ranking], circumstances, results)
    race = Race(run, data, asked, environment, progress)
    decided = race.decide(entrants) if data.of("val") else entrants
    winner = decided[0]
    scores = dict(zip(profiles, ncti([each.collapse for each in profiles.values()]), strict=True))
    value = {
        "data": asked.data,
        "counts": data.counts(),
        "classes": len(data.classes),
        "backbone": winner.backbone,
        "strategy": winner.strategy,
        "request": asdict(race.request(winner.backbone, winner.strategy)),
        "quadrant": asdict(circumstances),
        "why": explain(winner, best, circumstances, race.heats),
        "ranking": [
            {
                "backbone": each.candidate.id,
                "score": profiles[each.candidate.id].accuracy,
                "latency_ms": each.latency_ms,
                "megabytes": each.megabytes,
                "ncti": scores[each.candidate.id],
                **profiles[each.candidate.id].to_json(),
            }
            for each in ranking
        ],
        "expected": [each.to_json() for each in decided],
        "race": [asdict(heat) for heat in race.heats],
        "elsewhere": [each.id for each in elsewhere],
        "seconds": time.monotonic() - began,
    }
    run.write("recommendation", value)
    shutil.rmtree(run.path / "race", ignore_errors=True)
    run.write("result", {"recommendation": "recommendation.json"})
    return run.read("recommendation")


def _open(out: Path, asked: FinetuneRequest, limits: Limits) -> RunFolder:
    """The folder of this very recommendation, new or begun."""
    record = {"recommend": asdict(asked), "limits": asdict(limits)}
    if (out / "request.json").is_file():
        run = RunFolder.open(out)
        found = {name: value for name, value in run.read("request").items() if name != "schema"}
        if found != record:
            raise RunError(f"output folder already in use: {out} asks for something else; give another --out")
        return run
    run = RunFolder.create(out)
    run.write("environment", package_versions())
    run.write("request", record)
    return run


def _data(asked: FinetuneRequest, environment: Environment, progress: Progress) -> DataSet:
    data = open_dataset(
        asked.data,
        cache=environment.cache,
        progress=progress,
        seed=asked.seed,
        shots=asked.shots,
        val_share=asked.val_share,
    )
    threads = asked.threads or available_threads()
    return check_images(data, ImageStore(data), on_bad=asked.on_bad_sample, threads=threads, progress=progress)[0]


def _measure(run: RunFolder, candidate: Candidate, progress: Progress) -> _Affordable:
    spec = replace(candidate.entry.spec, input=candidate.weights.input)

    def latency() -> float:
        progress.say(f"measuring how long {candidate.entry.id} takes")
        return backbone_latency(spec)

    milliseconds = run.decide(f"latency of {candidate.id}", latency)
    return _Affordable(candidate=candidate, latency_ms=milliseconds, megabytes=spec.params * _PARAMETER_BYTES / 1e6)


def _fits(each: _Affordable, limits: Limits) -> bool:
    within_time = limits.latency_ms is None or each.latency_ms <= limits.latency_ms
    return within_time and (limits.megabytes is None or each.megabytes <= limits.megabytes)


def _shown(limits: Limits) -> str:
    asked = {"--max-latency": limits.latency_ms, "--max-size": limits.megabytes}
    return ", ".join(f"{name} {value:g}" for name, value in asked.items() if value is not None)


def _profile(
    run: RunFolder,
    candidate: Candidate,
    asked: FinetuneRequest,
    data: DataSet,
    environment: Environment,
    progress: Progress,
) -> Profile:
    def make() -> dict[str, Any]:
        progress.say(f"profile of {candidate.id}")
        size = None if candidate.weights.input.fixed_size else asked.input_size
        request = replace(asked, backbone=candidate.id, strategy="probe", epochs=None, input_size=size)
        sources = probe_sources(request, data, run, environment, progress)
        return profile(sources, _source(candidate, environment)).to_json()

    return Profile.from_json(run.decide(f"profile of {candidate.id}", make))


def _source(candidate: Candidate, environment: Environment) -> SourceStatistics | None:
    """What a registry knows of the source data of these very weights."""
    for registry in (*reversed(environment.catalogue.registries), packaged_registry()):
        for row in registry.get("sources", ()):
            if row["weights"] == candidate.id and row["sha256"].startswith(candidate.weights.sha256 or "-"):
                return SourceStatistics.from_json(row)
    return None


def _entrants(profiles: Sequence[Profile], circumstances: Circumstances, results: Sequence[Result]) -> list[Entrant]:
    """The probe of the best backbone, the likeliest ways to train, and probes of their backbones; the best first."""
    every = [
        Entrant(
            backbone=each.backbone,
            strategy=strategy,
            probe_error=1 - each.accuracy,
            expectation=expect(results, strategy, circumstances.per_class),
        )
        for each in profiles
        for strategy in (REFERENCE, *circumstances.strategies)
    ]
    every.sort(key=lambda each: each.error)
    trained = [each for each in every if each.strategy != REFERENCE][:_RACED]
    asked = {profiles[0].backbone, *(each.backbone for each in trained)}
    return [each for each in every if each in trained or (each.strategy == REFERENCE and each.backbone in asked)]
