"""Times of several models, which take turns for each combination of provider, threads and batch size."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.bench.cautions import busy_machine, strayed_nodes, too_many_threads, unsteady
from zoo.bench.contender import Contender, Images, OnnxContender, RunContender, first_call
from zoo.errors import UsageError
from zoo.progress import Progress
from zoo.runtime.feeds import Feeds
from zoo.runtime.session import Device, Provider, find_provider
from zoo.runtime.settings import SessionSettings
from zoo.runtime.threads import available_threads
from zoo.runtime.timing import Timing, take_turns

OpenRun = Callable[[Path, int], Sequence[RunContender]]
"""The engines in which a run folder answers with so many threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One measured combination. Times are of one call with the whole batch."""

    model: str
    provider: str
    threads: int
    batch: int
    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    faster: float
    """How many times as fast as the first model of the same combination: the median over rounds."""
    load_ms: float
    """From the file to the session that answers."""
    memory_mb: float | None = None
    """What a process grows by that opens the model and runs it."""
    preprocess_ms: float | None = None
    """Of a call, what preparing images takes inside a model that Zoo exported."""
    io_binding: bool = False
    """Whether tensors stay on the device."""
    settings: dict[str, Any] | None = None
    """Those of the session."""
    nodes: dict[str, int] | None = None
    """Nodes per execution provider that really ran them."""
    branches: dict[str, float] | None = None
    """Of a cascade: milliseconds of a call that each member took on average, and what lies between them."""
    cascade: str | None = None
    """Its kind."""
    accuracy: float | None = None
    interval95: tuple[float, float] | None = None


def bench(
    models: Sequence[Path],
    *,
    batches: Sequence[int],
    threads: Sequence[int] | None,
    devices: Sequence[Device | Provider],
    seconds: float,
    progress: Progress,
    accuracy: Callable[[Path], Mapping[str, Any]] | None = None,
    images: Images = (),
    open_run: OpenRun | None = None,
    io_binding: bool = False,
) -> dict[str, Any]:
    """`rows`, one per model, device, thread count and batch size, and `warnings`: what to know before trusting them.

    All models of a combination are called until their times settle and then take turns, `seconds` for each in total, so
    that a slow minute of the machine falls on all of them. Without `threads`, models are opened as `zoo serve` opens
    them, with tuned settings where there are any. `open_run` opens run folders among the models. `accuracy` gives the
    evaluation of a model, put beside its latency. Models that Zoo exported answer `images` [H, W, 3] in turn, on which
    the time of a gated cascade depends; without any, one picture by formula. With `io_binding` each model is measured
    a second time, with tensors that stay on the device.

    Raises ModelError for a file that does not load, DeviceError for a device that is not there, UsageError for a run
    folder where none can be opened.
    """
    counts = list(threads) if threads else [None]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    providers = list(dict.fromkeys(find_provider(device) for device in devices))
    asked = list(threads) if threads else [available_threads()]
    warnings = [*busy_machine(load, max(asked)), *too_many_threads(asked)]
    quality = {path: accuracy(path) for path in models} if accuracy else {}
    rows = []
    with progress.task("measuring", len(providers) * len(counts) * len(batches)) as task:
        for provider, count in itertools.product(providers, counts):
            contenders = _open(
                models, provider, threads=count, open_run=open_run, progress=progress, io_binding=io_binding
            )
            for batch in batches:
                found, remarks = _measure(contenders, batch, images=images, seconds=seconds, quality=quality)
                rows += found
                warnings += remarks
                task.advance(1, f"{provider}, batch {batch}")
    return {"rows": rows, "warnings": list(dict.fromkeys(warnings))}


def _open(
    models: Sequence[Path],
    provider: Provider,
    *,
    threads: int | None,
    open_run: OpenRun | None,
    progress: Progress,
    io_binding: bool,
) -> list[Contender]:
    found: list[Contender] = []
    for path in models:
        if not path.is_dir():
            settings = SessionSettings(threads=threads) if threads else None
            found += [
                OnnxContender(path, device=provider, settings=settings, progress=progress, bound=bound)
                for bound in ((False, True) if io_binding else (False,))
            ]
        elif open_run is None or provider != "cpu":
            raise UsageError(f"runs are measured on the CPU only: {path} on {provider}; export it, or use --device cpu")
        else:
            found += open_run(path, threads or available_threads())
    return found


def _measure(
    contenders: Sequence[Contender],
    batch: int,
    *,
    images: Images,
    seconds: float,
    quality: Mapping[Path, Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one combination, and what is odd about them."""
    feeds = [contender.feeds(batch, images) for contender in contenders]
    calls = [_endless(contender, given) for contender, given in zip(contenders, feeds, strict=True)]
    for contender, call in zip(contenders, calls, strict=True):
        first_call(call, contender.path, batch)  # in which torch compiles
    timings = take_turns(calls, seconds=seconds, fewest=max(20, *map(len, feeds)))
    rows, warnings = [], []
    for contender, given, timing in zip(contenders, feeds, timings, strict=True):
        facts = contender.facts(given)
        found = quality.get(contender.path)
        if found:
            facts |= {"accuracy": found["accuracy"], "interval95": found["interval95"]}
        rows.append(asdict(_row(contender, batch, timing, timings[0], facts)))
        what = f"{contender.path} on {contender.provider}, {contender.threads} threads, batch {batch}"
        warnings += unsteady(what, timing.spread) + strayed_nodes(
            str(contender.path), contender.provider, facts.get("nodes", {})
        )
    return rows, warnings


def _row(contender: Contender, batch: int, timing: Timing, first: Timing, facts: Mapping[str, Any]) -> BenchRow:
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(timing.seconds, (50, 95, 99)))
    return BenchRow(
        model=str(contender.path),
        provider=contender.provider,
        threads=contender.threads,
        batch=batch,
        runs=len(timing.seconds),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        images_per_s=batch * len(timing.seconds) / float(np.sum(timing.seconds)),
        faster=timing.times_as_fast_as(first),
        load_ms=contender.load_ms,
        **facts,
    )


def _endless(contender: Contender, feeds: Sequence[Feeds]) -> Callable[[], object]:
    calls = itertools.cycle([contender.call(each) for each in feeds])

    def call() -> object:
        return next(calls)()

    return call
