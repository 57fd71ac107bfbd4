"""The search for session settings with which a model is clearly faster here than with the defaults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from zoo.bench.contender import Images, first_call
from zoo.progress import Progress
from zoo.runtime.feeds import Feeds, model_feeds
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device, Provider, find_provider
from zoo.runtime.settings import SessionSettings
from zoo.runtime.timing import ROUNDS, Timing, take_turns
from zoo.runtime.tuned import Tuned, check_tuned_target, circumstances, remove_tuned, write_tuned

Goal = Literal["latency", "throughput"]

CLEARLY = 1.03
"""Settings are kept where they are so many times as fast as the defaults,"""
MOSTLY = 0.8
"""and faster in this share of the rounds."""
_CALLERS = 2
"""Calls at a time that `throughput` counts."""
_SEARCH_ROUNDS = 4
_SEARCH_SHARE = 0.6
"""Of the budget; the rest compares what was found with the defaults again, since the best of many was also lucky."""
_HOPELESS = 2.0
"""Candidates whose calls take so many times as long as the quickest one's are not measured further."""
_WARM_SHARE = 0.03
"""Of the time of a contender: within ten times as much it has to settle."""


def tune(
    model: Path,
    *,
    device: Device | Provider,
    batch: int,
    goal: Goal,
    budget: float,
    progress: Progress,
    images: Images = (),
) -> dict[str, Any]:
    """Writes the fastest settings found within `budget` seconds beside the model, where they are clearly faster.

    Threads and how they wait are searched by successive halving (Jamieson and Talwalkar 2016): the candidates that are
    not hopeless after two calls take turns, the faster half stays. What is left meets the defaults once more, and only
    what is at least 3 % and in 8 of 10 rounds faster there is kept; otherwise the model has no tuned settings
    afterwards. `latency` counts one call at a time, as `zoo serve` makes them; `throughput` two at once, as programs
    with several threads do.

    Raises ModelError for a file that does not load, and where settings cannot be put beside it.
    """
    check_tuned_target(model)
    provider, default = find_provider(device), SessionSettings.default()
    with progress.task("tuning", 2) as task, ThreadPoolExecutor(_CALLERS) as callers:
        at_once = callers if goal == "throughput" else None
        search = _Search(model, provider, batch=batch, images=images, callers=at_once)
        best = search.halve(_candidates(default), budget * _SEARCH_SHARE)
        task.advance(1, f"threads {best.threads}")
        gain, share = search.confirm(best, default, budget * (1 - _SEARCH_SHARE))
        task.advance()
    kept = best != default and gain >= CLEARLY and share >= MOSTLY
    result: dict[str, Any] = {
        "model": str(model),
        "provider": provider,
        "batch": batch,
        "goal": goal,
        "tried": search.tried,
        "best": best.to_json(),
        "gain": gain,
        "rounds_won": share,
        "file": None,
    }
    if not kept:
        remove_tuned(model)
        return result
    there = circumstances(model, provider)
    path = write_tuned(model, Tuned(settings=best, belongs_to=there, goal=goal, batch=batch, gain=gain))
    return {**result, "file": str(path)}


def _candidates(default: SessionSettings) -> list[SessionSettings]:
    """The likelier ones first: where the budget is short, the last ones are left out."""
    counts = [default.threads]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    waiting: tuple[dict[str, bool], ...] = ({}, {"lingering": True}, {"spinning": False})
    return [
        replace(default, threads=count, **ways)
        for count, ways in itertools.product(counts, waiting)
        if count > 1 or not ways  # a lone thread has nobody to wait for
    ]


class _Search:
    """Candidates of one model, measured in turns; with `callers`, by two calls at once."""

    def __init__(
        self, model: Path, provider: Provider, *, batch: int, images: Images, callers: ThreadPoolExecutor | None
    ) -> None:
        self._path, self._provider, self._callers = model, provider, callers
        self.tried = 0
        loaded = OnnxModel(model, device=provider, settings=SessionSettings.default())
        self._feeds: Sequence[Feeds] = model_feeds(loaded, batch=batch, images=images)
        first_call(self._call(loaded), model, batch)
        self._call_seconds: dict[SessionSettings, float] = {}

    def halve(self, candidates: Sequence[SessionSettings], seconds: float) -> SessionSettings:
        """The fastest of as many of the candidates as `seconds` allow; the first where they allow no comparison."""
        stages = max(1, (len(candidates) - 1).bit_length())
        began = time.perf_counter()
        hopeful = self._hopeful(candidates, seconds / stages)
        seconds -= time.perf_counter() - began
        left = self._fitting(hopeful, seconds / stages, _SEARCH_ROUNDS)
        self.tried += len(left) if len(left) > 1 else 0
        while len(left) > 1:
            timings = self._measure(left, seconds / stages, _SEARCH_ROUNDS)
            order = sorted(range(len(left)), key=lambda number: timings[number].times_as_fast_as(timings[0]))
            left = [left[number] for number in reversed(order[len(left) // 2 :])][: (len(left) + 1) // 2]
        return left[0] if left else candidates[0]

    def confirm(self, best: SessionSettings, default: SessionSettings, seconds: float) -> tuple[float, float]:
        """How many times as fast as the default, and in which share of the rounds; 1 and 0 where time is too short."""
        both = [best, default]
        if best == default or self._fitting(both, seconds, ROUNDS) != both:
            return 1.0, 0.0
        ours, theirs = self._measure(both, seconds, ROUNDS)
        return ours.times_as_fast_as(theirs), ours.rounds_faster_than(theirs)

    def _measure(self, settings: Sequence[SessionSettings], seconds: float, rounds: int) -> list[Timing]:
        models = [OnnxModel(self._path, device=self._provider, settings=each) for each in settings]
        rests = [each.rest_seconds for each in settings]
        each = (seconds - rounds * sum(rests)) / len(models)
        calls = [self._call(model) for model in models]
        warm = each * _WARM_SHARE
        return take_turns(calls, seconds=each / 2, fewest=rounds, rounds=rounds, warm_seconds=warm, rests=rests)

    def _hopeful(self, candidates: Sequence[SessionSettings], seconds: float) -> list[SessionSettings]:
        """Those of the first, as many as there is time for, whose second call is not far behind the quickest one."""
        until = time.perf_counter() + seconds
        for settings in candidates:
            if time.perf_counter() < until:
                self._call_seconds[settings] = self._second_call(settings)
        quickest = min(self._call_seconds.values(), default=0.0)
        return [each for each, taken in self._call_seconds.items() if taken < _HOPELESS * quickest]

    def _second_call(self, settings: SessionSettings) -> float:
        call = self._call(OnnxModel(self._path, device=self._provider, settings=settings))
        call()
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def _fitting(self, settings: Sequence[SessionSettings], seconds: float, rounds: int) -> list[SessionSettings]:
        """The first of them, as many as can be called twice in each of the rounds, and to settle."""
        needed = itertools.accumulate(
            (2 * rounds + 2) * self._call_seconds[each] + rounds * each.rest_seconds for each in settings
        )
        return [each for each, total in zip(settings, needed, strict=True) if total <= seconds]

    def _call(self, model: OnnxModel) -> Callable[[], object]:
        endless, callers = itertools.cycle(self._feeds), self._callers
        if callers is None:
            return lambda: model.run(next(endless))
        return lambda: list(callers.map(model.run, itertools.islice(endless, _CALLERS)))
