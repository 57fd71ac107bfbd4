"""The models of a server: what each is, the queue before it, and what is counted of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from zoo.serving.batching import Batcher, Feeds, Job, Pace
from zoo.serving.metrics import ModelMetrics
from zoo.serving.model import ServedModel
from zoo.serving.protocol import Requests
from zoo.serving.tensors import ProtocolError
from zoo.serving.traffic import Share

if TYPE_CHECKING:
    from zoo.serving.tracing import Tracing


class Served:
    """One version of a model at work."""

    def __init__(
        self, model: ServedModel, pace: Pace, *, max_queue: int, max_delay: float, tracing: Tracing | None = None
    ) -> None:
        """`max_queue` and `max_delay` as `zoo.serving.batching.Batcher` has them."""
        self.model = model
        self.pace = pace
        self.requests = Requests(model)
        self.metrics = ModelMetrics(model.name, model.version, model.labels)
        # The queue does not know this object: in a cycle, the memory of a model that was replaced would be kept until
        # Python looks for such things.
        calls = _Counted(model, self.metrics, tracing)
        self.batcher = Batcher(
            calls.infer,
            pace,
            max_queue=max_queue,
            max_delay=max_delay,
            called=calls.called,
            mark=partial(tracing.asked, model) if tracing is not None else None,
        )


class _Counted:
    """Calls of a model, and what is counted of them."""

    def __init__(self, model: ServedModel, metrics: ModelMetrics, tracing: Tracing | None) -> None:
        self._model = model
        self._metrics = metrics
        self._tracing = tracing
        self._probabilities: dict[str, NDArray[Any]] = {}

    def infer(self, feeds: Sequence[Feeds], outputs: Sequence[str]) -> list[NDArray[Any]]:
        # Probabilities are counted, whether or not they are asked for.
        names = [*outputs, *(name for name in self._model.labels if name not in outputs)]
        answers = self._model.infer(feeds, names)
        self._probabilities = {name: answers[names.index(name)] for name in self._model.labels}
        return answers[: len(outputs)]

    def called(self, jobs: Sequence[Job], began: float, seconds: float) -> None:
        counted, self._probabilities = self._probabilities, {}
        self._metrics.called(sum(job.rows for job in jobs), (began - job.queued for job in jobs), seconds)
        for name, probabilities in counted.items():
            self._metrics.predicted(name, probabilities)
        if self._tracing is not None:
            self._tracing.called(self._model, jobs, began, seconds)
        if self._model.exits is not None:
            self._metrics.exits = self._model.exits.counts


class Models:
    """All models of a server by name and version. Asked for without a version, the highest one answers that is neither
    a canary nor a shadow."""

    def __init__(
        self, *, canaries: Mapping[str, Share] | None = None, shadows: Mapping[str, Share] | None = None
    ) -> None:
        self._canaries = canaries or {}
        self._shadows = shadows or {}
        self._versions: dict[str, dict[str, Served]] = {}
        self._newest: dict[str, Served] = {}
        self.elsewhere: dict[tuple[str, str], ModelMetrics] = {}
        """What other processes that serve the same models have counted, by name and version."""

    def __iter__(self) -> Iterator[Served]:
        """All versions of all models."""
        for versions in self._versions.values():
            yield from versions.values()

    def put(self, served: Served) -> None:
        """Adds a version, or replaces it: what the old one was asked it still answers."""
        versions = self._versions.setdefault(served.model.name, {})
        old = versions.get(served.model.version)
        versions[served.model.version] = served
        self._choose(served.model.name)
        if old is not None:
            old.batcher.close()

    def remove(self, name: str, version: str) -> asyncio.Future[None]:
        """Takes a version out; the future is done once it has answered what it was asked."""
        versions = self._versions[name]
        drained = versions.pop(version).batcher.close()
        if versions:
            self._choose(name)
        else:
            del self._versions[name], self._newest[name]
        return drained

    def shadow(self, served: Served) -> Served | None:
        """The version that is to hear this request of another one, too."""
        share = self._shadows.get(served.model.name)
        if share is None or served.model.version == share.version or not share.falls():
            return None
        return self._versions[served.model.name].get(share.version)

    def _choose(self, name: str) -> None:
        versions = self._versions[name]
        tried = {split[name].version for split in (self._canaries, self._shadows) if name in split}
        self._newest[name] = versions[max([each for each in versions if each not in tried] or versions, key=int)]

    def metrics(self, served: Served) -> ModelMetrics:
        """What was counted of a model by all processes."""
        others = self.elsewhere.get((served.model.name, served.model.version))
        return served.metrics.plus(others) if others is not None else served.metrics

    def versions(self, name: str) -> list[str]:
        """The versions of a model, lowest first."""
        return sorted(self._versions.get(name, ()), key=int)

    def find(self, name: str, version: str | None = None) -> Served:
        """The model of this name. Raises ProtocolError where there is none."""
        if version is None and name in self._canaries and self._canaries[name].falls():
            canary = self._versions.get(name, {}).get(self._canaries[name].version)
            found = canary or self._newest.get(name)
        else:
            found = self._newest.get(name) if version is None else self._versions.get(name, {}).get(version)
        if found is not None:
            return found
        if name not in self._newest:
            there = ", ".join(self._versions) or "none"
            raise ProtocolError(f"unknown model: {name!r:.80}; this server has {there}", 404)
        raise ProtocolError(f"unknown version of {name}: {version!r:.40}; it has {', '.join(self.versions(name))}", 404)
