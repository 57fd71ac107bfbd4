"""The verb `recommend`: from a data set to the backbone and the strategy that suit it, and why."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.artifacts.runs import RunFolder
from zoo.artifacts.versions import package_versions
from zoo.catalogue.results import Result
from zoo.data.dataset import DataSet
from zoo.data.store import ImageStore, check_images
from zoo.errors import RunError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, open_data
from zoo.finetune.run import probe_sources
from zoo.progress import Named, Progress
from zoo.recommend.candidates import Candidate, Limits, find_candidates, latencies
from zoo.recommend.circumstances import Circumstances
from zoo.recommend.explain import explain
from zoo.recommend.prior import REFERENCE, Expectation, Seen, expect, expect_probes, pooled_errors
from zoo.recommend.profile import Profile, profile
from zoo.recommend.race import Entrant, Race, training_seconds, worth_most
from zoo.recommend.separation import ncti
from zoo.recommend.source import known_source
from zoo.runtime.threads import available_threads

_RACED = 2
"""So many backbones enter the race, each with the strategy that should suit it best."""
_HOPELESS = 2.0
"""Not those of which so many times as many mistakes are to be expected as of the best."""


def recommend(
    asked: FinetuneRequest,
    out: Path,
    environment: Environment,
    progress: Progress,
    *,
    limits: Limits,
    results: Sequence[Result],
) -> dict[str, Any]:
    """The backbone, and the strategy unless it names one, for the training `asked`, as the record in `out`.

    Every backbone within `limits` is profiled on the training images. What trainings on other
    data came to (`results`) says what to expect of each backbone and strategy; the likeliest few race for part of
    their steps, judged by validation images where there are any. Test images are not looked at. `out` keeps
    what was decided: the same call goes on where it was cut off. Raises RunError where `out` holds something else,
    UsageError where nothing is within the limits, WeightsError where no pretrained weights are at hand.
    """
    began = time.monotonic()
    run = _open(out, asked, limits)
    if run.is_complete:
        return run.read("recommendation")
    data = _data(asked, environment, progress)
    catalogue = environment.catalogue
    here, others = find_candidates(catalogue, environment.cache, limits.backbones, drop_stages=asked.drop_stages)
    milliseconds = latencies(here, asked, limits, catalogue.latencies, run, progress)
    candidates = {each.id: each for each in here if each.id in milliseconds}
    profiles = [_profile(run, each, asked, data, environment, progress) for each in candidates.values()]
    per_class = (len(data.of("train")) + len(data.of("val"))) / len(data.classes)
    race = Race(run, data, asked, candidates, environment, progress)
    elsewhere = expect_probes(results, list(candidates), per_class)
    errors = _probe_errors(profiles, elsewhere, race)
    profiles.sort(key=lambda each: errors[each.backbone])
    circumstances = Circumstances.of(profiles[0], per_class)
    strategies = circumstances.strategies if asked.strategy == "auto" else (asked.strategy,)
    images = len(data.of("train"))
    seconds = {
        (each.backbone, strategy): training_seconds(candidates[each.backbone].request(asked, strategy), images, each)
        for each in profiles
        for strategy in dict.fromkeys((REFERENCE, *strategies))
    }
    entrants = _likeliest(
        Entrant(
            backbone=backbone,
            strategy=strategy,
            probe_error=errors[backbone],
            expectation=expect(results, strategy, backbone, per_class),
        )
        for (backbone, strategy), takes in seconds.items()
        if strategy == REFERENCE or limits.seconds is None or takes <= limits.seconds
    )
    if any(each.expectation.would_learn(each.probe_error, len(data.of("val"))) for each in entrants):
        entrants = race.decide(entrants)
    winner = worth_most([each for each in entrants if asked.strategy in ("auto", each.strategy)])
    if winner is None:
        raise UsageError(f"no backbone can be trained with {asked.strategy} within {limits}; raise it")
    takes = seconds[winner.backbone, winner.strategy]
    run.write(
        "recommendation",
        {
            "data": asked.data,
            "counts": data.counts(),
            "classes": len(data.classes),
            "backbone": winner.backbone,
            "strategy": winner.strategy,
            "request": asdict(candidates[winner.backbone].request(asked, winner.strategy)),
            "quadrant": asdict(circumstances),
            "why": explain(
                winner, entrants[0], profiles[0], elsewhere[profiles[0].backbone], circumstances, race.heats, takes
            ),
            "ranking": _ranking(profiles, errors, candidates, milliseconds),
            "expected": [each.to_json() for each in entrants],
            "race": [asdict(heat) for heat in race.heats],
            "training_seconds": takes,
            "elsewhere": [each.id for each in others],
            "seconds": time.monotonic() - began,
        },
    )
    shutil.rmtree(run.path / "race", ignore_errors=True)
    run.write("result", {"recommendation": "recommendation.json"})
    return run.read("recommendation")


def _open(out: Path, asked: FinetuneRequest, limits: Limits) -> RunFolder:
    """The folder of this very recommendation, new or begun."""
    record = json.loads(json.dumps({"recommend": asdict(asked), "limits": asdict(limits)}))
    if not (out / "request.json").is_file():
        run = RunFolder.create(out)
        run.write("environment", package_versions())
        run.write("request", record)
        return run
    run = RunFolder.open(out)
    if {name: value for name, value in run.read("request").items() if name != "schema"} != record:
        raise RunError(f"output folder already in use: {out}, where something else was asked; give another --out")
    return run


def _data(asked: FinetuneRequest, environment: Environment, progress: Progress) -> DataSet:
    data = open_data(asked, environment, progress)
    threads = asked.threads or available_threads()
    return check_images(data, ImageStore(data), on_bad=asked.on_bad_sample, threads=threads, progress=progress)[0]


def _profile(
    run: RunFolder,
    candidate: Candidate,
    asked: FinetuneRequest,
    data: DataSet,
    environment: Environment,
    progress: Progress,
) -> Profile:
    def make() -> dict[str, Any]:
        named = Named(progress, candidate.id, remarks=False)
        sources = probe_sources(candidate.request(asked, REFERENCE), data, run, environment, named)
        found = profile(sources, known_source(candidate, environment.catalogue))
        progress.say(f"{candidate.id}: a probe is right about {found.accuracy:.1%} of the images it has not seen")
        return found.to_json()

    return Profile.from_json(run.decide(f"profile of {candidate.id}", make))


def _probe_errors(profiles: Sequence[Profile], elsewhere: Mapping[str, Expectation], race: Race) -> dict[str, float]:
    """The error rate of a probe of each backbone: of its training images, each left out once, and of the validation
    images where it could be the best, drawn towards what it was like on other data."""
    seen = {each.backbone: Seen((1 - each.accuracy) * each.images, each.images) for each in profiles}
    errors = pooled_errors(seen, elsewhere)
    if race.has_judges:
        best = min(errors.values())
        for name, error in errors.items():
            if error < _HOPELESS * best:
                seen[name] += race.probe(name).seen
    return pooled_errors(seen, elsewhere)


def _likeliest(entrants: Iterable[Entrant]) -> list[Entrant]:
    """The best probe, the likeliest backbones to train, and probes of these; the best first."""
    every = sorted(entrants, key=lambda each: each.error)
    trained: dict[str, Entrant] = {}
    for each in every:
        if each.strategy != REFERENCE and each.error < _HOPELESS * every[0].error and len(trained) < _RACED:
            trained.setdefault(each.backbone, each)
    best = next(each.backbone for each in every if each.strategy == REFERENCE)
    probes = [each for each in every if each.strategy == REFERENCE and each.backbone in {best, *trained}]
    return sorted([*trained.values(), *probes], key=lambda each: each.error)


def _ranking(
    profiles: Sequence[Profile],
    errors: Mapping[str, float],
    candidates: Mapping[str, Candidate],
    milliseconds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What is known of each backbone, the best first."""
    scores = ncti([each.collapse for each in profiles])
    return [
        {
            "backbone": each.backbone,
            "score": 1 - errors[each.backbone],
            "latency_ms": milliseconds[each.backbone],
            "megabytes": candidates[each.backbone].megabytes,
            "ncti": score,
            **each.to_json(),
        }
        for each, score in zip(profiles, scores, strict=True)
    ]
