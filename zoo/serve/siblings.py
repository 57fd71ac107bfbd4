"""What processes that serve the same models tell each other: each counts, and each is asked for the counts of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.connection import Connection

from zoo.serving.metrics import ModelMetrics
from zoo.serving.models import Models

_SECONDS = 1.0


class Siblings:
    """The line from a process that serves to the one that started it, which passes on what the others have counted."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def started(self, names: list[str], grpc_port: int | None) -> None:
        """Says that this process answers."""
        self._line.send((names, grpc_port))

    def failed(self, error: Exception) -> None:
        """Says why this process does not answer."""
        self._line.send(error)

    async def exchange(self, models: Models, orphaned: Callable[[], None]) -> None:
        """Tells and hears counts once a second, until it is cancelled. `orphaned` is called where the process at the
        other end is gone."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            try:
                models.elsewhere = by_version(self._line.recv())
            except (EOFError, OSError):
                loop.remove_reader(self._line.fileno())
                orphaned()

        loop.add_reader(self._line.fileno(), hear)
        try:
            while True:
                await asyncio.sleep(_SECONDS)
                self._line.send([served.metrics for served in models])
        except OSError:
            orphaned()
        finally:
            loop.remove_reader(self._line.fileno())


def by_version(counted: list[ModelMetrics]) -> dict[tuple[str, str], ModelMetrics]:
    """Sums of counts by model and version."""
    found: dict[tuple[str, str], ModelMetrics] = {}
    for metrics in counted:
        key = metrics.model, metrics.version
        found[key] = found[key].plus(metrics) if key in found else metrics
    return found
