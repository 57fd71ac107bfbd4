"""The verb `bench`: how fast a model answers here, and on which execution provider."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zoo.artifacts.manifest import INPUT
from zoo.data.images import decode_image
from zoo.data.splits import open_dataset
from zoo.errors import ModelError
from zoo.progress import Progress
from zoo.runtime.golden import golden_image
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device
from zoo.runtime.threads import available_threads
from zoo.runtime.trace import trace

Feeds = dict[str, NDArray[Any]]

_WARM_SECONDS = 0.5
_WARM_WINDOW = 10
_STABLE = 0.1
_MIN_RUNS = 20
_IMAGES = 64

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


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
    nodes: dict[str, int]
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
    device: Device,
    seconds: float,
    progress: Progress,
    accuracy: Callable[[Path], dict[str, Any]] | None = None,
    images: Sequence[NDArray[np.uint8]] = (),
) -> list[dict[str, Any]]:
    """One row per model, thread count and batch size.

    Each combination is called until its times settle and then for `seconds`. Several models are measured in turn for
    every combination, so that a slow minute of the machine falls on all of them. `accuracy` gives the evaluation of
    a model, put beside its latency. Models that Zoo exported answer `images` [H, W, 3] in turn, on which the time of a
    gated cascade depends; without any, one picture by formula. Raises ModelError for a file that does not load.
    """
    counts = list(threads) if threads else [available_threads()]
    quality = {path: accuracy(path) for path in models} if accuracy else {}
    rows = []
    with progress.task("measuring", len(models) * len(counts) * len(batches)) as task:
        for count in counts:
            loaded = [OnnxModel(path, device=device, threads=count) for path in models]
            for batch in batches:
                for model in loaded:
                    row = _measure(model, _feeds(model, batch, images), batch, count, seconds, device)
                    found = quality.get(model.path)
                    if found:
                        row |= {"accuracy": found["accuracy"], "interval95": found["interval95"]}
                    rows.append(row)
                    task.advance(1, f"{model.name} batch {batch}")
    return rows


def some_images(data: str, *, cache: Path, progress: Progress) -> list[NDArray[np.uint8]]:
    """Images [H, W, 3] of the test split of DATA, 64 of them at most, from all over it."""
    dataset = open_dataset(data, cache=cache, progress=progress, for_training=False)
    test = dataset.of("test")
    return [decode_image(dataset.path(sample)) for sample in test[:: math.ceil(len(test) / _IMAGES)]]


def _measure(
    model: OnnxModel, feeds: Sequence[Feeds], batch: int, threads: int, seconds: float, device: Device
) -> dict[str, Any]:
    endless = itertools.cycle(feeds)
    try:
        _settle(lambda: model.run(next(endless)))
        times = _times(lambda: model.run(next(endless)), seconds, fewest=len(feeds))
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own exception types are not part of its public interface
        reason = " ".join(str(error).split())
        raise ModelError(f"{model.path} does not run at batch {batch}: {reason:.200}; try --batch 1") from None
    p50, p95, p99 = (float(value) * 1e3 for value in np.percentile(times, (50, 95, 99)))
    seen = trace(model.path, feeds, device=device, threads=threads)
    return asdict(
        BenchRow(
            model=str(model.path),
            provider=model.provider,
            threads=threads,
            batch=batch,
            runs=len(times),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            images_per_s=batch * len(times) / float(np.sum(times)),
            nodes=seen.nodes,
            branches=_branches(model, seen.part_ms),
            cascade=model.manifest.cascade["kind"] if model.manifest and model.manifest.cascade else None,
        )
    )


def _settle(call: Callable[[], Any]) -> None:
    """Calls until the last ten times lie within 10 % of the ten before, at most for a while."""
    times: list[float] = []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        older, newer = times[-2 * _WARM_WINDOW : -_WARM_WINDOW], times[-_WARM_WINDOW:]
        stable = bool(older) and abs(np.median(newer) / np.median(older) - 1) < _STABLE
        elapsed = time.perf_counter() - began
        if (stable and elapsed > _WARM_SECONDS) or elapsed > 10 * _WARM_SECONDS:
            return


def _times(call: Callable[[], Any], seconds: float, *, fewest: int) -> NDArray[np.float64]:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < max(_MIN_RUNS, fewest) or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times)


def _branches(model: OnnxModel, part_ms: Mapping[str, float]) -> dict[str, float] | None:
    cascade = model.manifest.cascade if model.manifest else None
    if cascade is None:
        return None
    # Nodes are named after the member they belong to; what the runtime adds is not.
    members = {f"member{number}": member["backbone"] for number, member in enumerate(cascade["members"])}
    found = {f"{number}: {name}": part_ms.get(part, 0.0) for number, (part, name) in enumerate(members.items())}
    return {**found, "rest": sum(taken for part, taken in part_ms.items() if part not in members)}


def _feeds(model: OnnxModel, batch: int, images: Sequence[NDArray[np.uint8]]) -> list[Feeds]:
    """Inputs to measure with: pictures of the model's own input size, or tensors of the declared shapes."""
    if model.manifest is not None:
        height, width = model.manifest.input["height"], model.manifest.input["width"]
        if not images:
            return [{INPUT: np.repeat(golden_image(height, width, 0)[None], batch, axis=0)}]
        fitting = [np.asarray(ImageOps.fit(Image.fromarray(image), (width, height))) for image in images]
        # Whole batches, the last one filled up with the first images.
        count = math.ceil(len(fitting) / batch)
        rows = [fitting[number % len(fitting)] for number in range(count * batch)]
        return [{INPUT: np.stack(rows[start : start + batch])} for start in range(0, len(rows), batch)]
    feeds: dict[str, NDArray[Any]] = {}
    random = np.random.default_rng(0)
    for tensor in model.inputs:
        if tensor.type not in _NUMPY:
            raise ModelError(f"input {tensor.name} of {model.path} is {tensor.type}; bench cannot make such input")
        shape = [batch if axis == 0 and size < 0 else max(size, 1) for axis, size in enumerate(tensor.shape)]
        kind = np.dtype(_NUMPY[tensor.type])
        values = random.random(shape) if kind.kind == "f" else random.integers(0, 2, shape)
        feeds[tensor.name] = values.astype(kind)
    return [feeds]
