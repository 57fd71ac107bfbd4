"""What is counted of a served model: for Prometheus, and as Triton's statistics tell it.

Counted in plain lists, which costs a tenth of what a client library of Prometheus takes for each observation; that
library writes them out when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Histogram:
    """How often values fell between bounds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """The values of both."""
        both = Histogram(self._bounds)
        both.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both

    def quantile(self, share: float) -> float:
        """The value that this share of all values is not above, by straight lines between the bounds."""
        wanted, below, lower = share * self.count, 0, 0.0
        for upper, count in zip(self._bounds, self.counts, strict=False):
            if count and below + count >= wanted:
                return lower + (upper - lower) * (wanted - below) / count
            below, lower = below + count, upper
        return lower

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds and how many values were not above them."""
        running = np.cumsum(self.counts).tolist()
        return list(zip([*map(str, self._bounds), "+Inf"], running, strict=True))


class ModelMetrics:
    """What is counted of one version of one model."""

    def __init__(self, model: str, version: str, labels: Mapping[str, Sequence[str]]) -> None:
        self.model = model
        self.version = version
        self.labels = labels
        self.statuses = Counter[int]()
        self.requests = Histogram(_SECONDS)
        """Seconds from the head of a request to its answer, of those answered with 200."""
        self.queue = Histogram(_SECONDS)
        self.calls = Histogram(_SECONDS)
        self.rows = Histogram(_ROWS)
        self.confidence = {output: Histogram(_SHARES) for output in labels}
        self.by_label = {output: [0] * len(names) for output, names in labels.items()}
        self.agreed = 0
        self.compared_rows = 0
        """Of a shadow: rows in which it said the same as the version that answered, and all."""
        self.exits: list[int] = []
        """Of a gated cascade: images that stopped at each member."""
        self.by_rows: dict[int, tuple[int, float]] = {}
        """Of calls with so many rows: how many, and their seconds in all."""
        self.failed_seconds = 0.0
        self.last = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """Counts one request."""
        self.statuses[status] += 1
        if status == 200:
            self.requests.add(seconds)
            self.last = time()
        else:
            self.failed_seconds += seconds

    def called(self, rows: int, waited: Iterable[float], seconds: float) -> None:
        """Counts one call of the model."""
        for each in waited:
            self.queue.add(each)
        self.calls.add(seconds)
        self.rows.add(rows)
        calls, total = self.by_rows.get(rows, (0, 0.0))
        self.by_rows[rows] = calls + 1, total + seconds

    def predicted(self, output: str, probabilities: NDArray[np.floating[Any]]) -> None:
        """Counts the best label of each row [N, C] and how sure the model was."""
        counts, histogram = self.by_label[output], self.confidence[output]
        for label, confidence in zip(probabilities.argmax(1).tolist(), probabilities.max(1).tolist(), strict=True):
            counts[label] += 1
            histogram.add(confidence)

    def compared(self, agreed: int, rows: int) -> None:
        """Counts rows that a shadow was asked about, too."""
        self.agreed += agreed
        self.compared_rows += rows

    def plus(self, other: ModelMetrics) -> ModelMetrics:
        """What was counted of the same model here and there."""
        both = ModelMetrics(self.model, self.version, self.labels)
        both.statuses = self.statuses + other.statuses
        for name in ("requests", "queue", "calls", "rows"):
            setattr(both, name, getattr(self, name).plus(getattr(other, name)))
        for output, counts in self.by_label.items():
            if output in other.by_label:
                both.by_label[output] = _sums(counts, other.by_label[output])
                both.confidence[output] = self.confidence[output].plus(other.confidence[output])
        both.exits = _sums(self.exits, other.exits)
        both.by_rows = dict(self.by_rows)
        for rows, (calls, seconds) in other.by_rows.items():
            mine = both.by_rows.get(rows, (0, 0.0))
            both.by_rows[rows] = mine[0] + calls, mine[1] + seconds
        both.compared(self.agreed + other.agreed, self.compared_rows + other.compared_rows)
        both.failed_seconds = self.failed_seconds + other.failed_seconds
        both.last = max(self.last, other.last)
        return both

    def to_json(self) -> dict[str, Any]:
        """As Triton's statistics extension tells it; times are in nanoseconds."""
        answered = self.requests.count
        failed = sum(count for status, count in self.statuses.items() if status != 200)
        inferences = sum(rows * calls for rows, (calls, _) in self.by_rows.items())

        def duration(count: int, seconds: float) -> dict[str, int]:
            return {"count": count, "ns": round(seconds * 1e9)}

        none = duration(0, 0)
        return {
            "name": self.model,
            "version": self.version,
            "last_inference": round(self.last * 1e3),
            "inference_count": inferences,
            "execution_count": self.calls.count,
            "inference_stats": {
                "success": duration(answered, self.requests.total),
                "fail": duration(failed, self.failed_seconds),
                "queue": duration(self.queue.count, self.queue.total),
                "compute_input": none,
                "compute_infer": duration(self.calls.count, self.calls.total),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": none,
                    "compute_infer": duration(calls, seconds),
                    "compute_output": none,
                }
                for rows, (calls, seconds) in sorted(self.by_rows.items())
            ],
        }


def _sums(mine: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Element by element; where a version has other labels elsewhere, mine."""
    return [a + b for a, b in zip(mine, theirs, strict=True)] if len(mine) == len(theirs) else list(mine)


def exposition(models: Iterable[ModelMetrics], waiting: Iterable[tuple[str, str, int]], connections: int) -> bytes:
    """All of it in the text format of Prometheus. `waiting`: model, version and rows in its queue."""
    registry = CollectorRegistry()
    registry.register(_Collector(list(models), list(waiting), connections))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(
        self, models: Sequence[ModelMetrics], waiting: Sequence[tuple[str, str, int]], connections: int
    ) -> None:
        self._models = models
        self._waiting = waiting
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        names = ["model", "version"]
        requests = CounterMetricFamily("zoo_requests", "Requests by HTTP status.", labels=[*names, "status"])
        for model in self._models:
            for status, count in sorted(model.statuses.items()):
                requests.add_metric([model.model, model.version, str(status)], count)
        yield requests
        for name, meaning, attribute in (
            ("zoo_request_seconds", "From the head of a request to its answer.", "requests"),
            ("zoo_queue_seconds", "What requests waited for their turn.", "queue"),
            ("zoo_call_seconds", "Calls of the model.", "calls"),
            ("zoo_call_rows", "Rows of a call.", "rows"),
        ):
            family = HistogramMetricFamily(name, meaning, labels=names)
            for model in self._models:
                histogram: Histogram = getattr(model, attribute)
                family.add_metric([model.model, model.version], histogram.buckets(), histogram.total)
            yield family
        yield from self._predictions([*names, "output"])
        waiting = GaugeMetricFamily("zoo_queue_rows", "Rows that wait now.", labels=names)
        for name, version, rows in self._waiting:
            waiting.add_metric([name, version], rows)
        yield waiting
        yield GaugeMetricFamily("zoo_connections", "Open connections.", value=self._connections)

    def _predictions(self, names: Sequence[str]) -> Iterable[Metric]:
        """What was said, which changes where images do."""
        labels = CounterMetricFamily("zoo_labels", "Images by the label they were given.", labels=[*names, "label"])
        sure = HistogramMetricFamily("zoo_confidence", "How sure the model was of its label.", labels=names)
        for model in self._models:
            for output, texts in model.labels.items():
                key = [model.model, model.version, output]
                sure.add_metric(key, model.confidence[output].buckets(), model.confidence[output].total)
                for label, count in zip(texts, model.by_label[output], strict=True):
                    labels.add_metric([*key, label], count)
        yield labels
        yield sure
        shadows = CounterMetricFamily(
            "zoo_shadow_rows", "Rows that a shadow was asked about, too.", labels=["model", "version", "agrees"]
        )
        for model in self._models:
            if model.compared_rows:
                shadows.add_metric([model.model, model.version, "yes"], model.agreed)
                shadows.add_metric([model.model, model.version, "no"], model.compared_rows - model.agreed)
        yield shadows
