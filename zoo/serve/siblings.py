"""What processes that serve the same models tell each other.

Each counts, and each is asked for the counts of all; what one is asked to load or unload, all load or unload.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection
from secrets import token_hex
from typing import Any, Literal

from zoo.errors import ModelError, ZooError
from zoo.progress import Silent
from zoo.serve.changes import Change, Outcome
from zoo.serve.repository import Repository
from zoo.serving.metrics import ModelMetrics
from zoo.serving.models import Models
from zoo.serving.repository import IndexEntry

_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Remark:
    """A fact worth a line, which the process that started the others tells once."""

    text: str


class Siblings:
    """The line from a process that serves to the one that started it, which passes on what the others have counted."""

    def __init__(self, line: Connection, *, unloaded: Collection[str]) -> None:
        self._line = line
        self._sending = threading.Lock()
        self.unloaded = unloaded
        """Names of models that the others have unloaded before this process was there."""
        self._asked: dict[Change, asyncio.Future[Outcome]] = {}
        self._changing: set[asyncio.Task[None]] = set()

    def started(self, names: list[str], grpc_port: int | None) -> None:
        """Says that this process answers."""
        self.send((names, grpc_port))

    def failed(self, error: Exception) -> None:
        """Says why this process does not answer."""
        self.send(error)

    def send(self, message: object) -> None:
        """Says something to the process that started this one; from any thread."""
        with self._sending:
            self._line.send(message)

    async def everywhere(self, action: Literal["load", "unload"], name: str) -> None:
        """Loads or unloads a model in all processes. Raises ModelError where one of them cannot."""
        change = Change(action=action, name=name, token=token_hex())
        self._asked[change] = asyncio.get_running_loop().create_future()
        self.send(change)
        outcome = await self._asked[change]
        if outcome.error is not None:
            raise ModelError(outcome.error)

    async def exchange(self, models: Models, repository: Repository, orphaned: Callable[[], None]) -> None:
        """Tells and hears counts once a second, and makes the changes of all, until it is cancelled. `orphaned` is
        called where the process at the other end is gone."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            try:
                said: Any = self._line.recv()
            except (EOFError, OSError):
                loop.remove_reader(self._line.fileno())
                orphaned()
                return
            if isinstance(said, Change):
                task = loop.create_task(self._make(said, repository))
                self._changing.add(task)
                task.add_done_callback(self._changing.discard)
            elif isinstance(said, Outcome):
                self._asked.pop(said.change).set_result(said)
            else:
                models.elsewhere = by_version(said)

        loop.add_reader(self._line.fileno(), hear)
        try:
            while True:
                await asyncio.sleep(_SECONDS)
                self.send([served.metrics for served in models])
        except OSError:
            orphaned()
        finally:
            loop.remove_reader(self._line.fileno())

    async def _make(self, change: Change, repository: Repository) -> None:
        error = None
        try:
            await (repository.load if change.action == "load" else repository.unload)(change.name)
        except ZooError as refused:
            error = str(refused)
        self.send(Outcome(change=change, error=error, unloaded=frozenset(repository.unloaded)))


class Remarks(Silent):
    """What a process among others says of its work."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings

    def say(self, message: str) -> None:
        """Has a fact told."""
        self._siblings.send(Remark(message))


class SharedRepository:
    """The repository of one process among others: what is changed here is changed in all."""

    def __init__(self, repository: Repository, siblings: Siblings) -> None:
        self._repository = repository
        self._siblings = siblings

    @property
    def unloaded(self) -> Collection[str]:
        """Names of models that are out because somebody asked for it."""
        return self._repository.unloaded

    @property
    def refused(self) -> Collection[str]:
        """Versions whose files are not served as they are now."""
        return self._repository.refused

    async def index(self) -> list[IndexEntry]:
        """All there is, served by this process or not."""
        return await self._repository.index()

    async def load(self, name: str) -> None:
        """Reads a model anew. Raises ModelError where a process refuses a version of it."""
        await self._siblings.everywhere("load", name)

    async def unload(self, name: str) -> None:
        """Takes a model out, once all processes have answered what they were asked. Raises ModelError where there is
        none."""
        await self._siblings.everywhere("unload", name)


def by_version(counted: list[ModelMetrics]) -> dict[tuple[str, str], ModelMetrics]:
    """Sums of counts by model and version."""
    found: dict[tuple[str, str], ModelMetrics] = {}
    for metrics in counted:
        key = metrics.model, metrics.version
        found[key] = found[key].plus(metrics) if key in found else metrics
    return found
