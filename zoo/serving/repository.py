"""The model repository extension: what could be served, and loading and unloading it while the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from zoo.errors import ZooError
from zoo.serving.tensors import ProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One version of a model, served or not."""

    name: str
    version: str
    ready: bool
    reason: str
    """Why its file is not what answers; empty where it is."""

    def to_json(self) -> dict[str, str]:
        """As the extension tells it."""
        state = "READY" if self.ready else "UNAVAILABLE"
        return {"name": self.name, "version": self.version, "state": state, "reason": self.reason}


class ModelRepository(Protocol):
    """Where models come from."""

    @property
    def unloaded(self) -> Collection[str]:
        """Names of models that are out because somebody asked for it."""
        ...

    @property
    def refused(self) -> Collection[str]:
        """Versions whose files are not served as they are now, such as `flowers:2`."""
        ...

    async def index(self) -> list[IndexEntry]:
        """All there is, served or not."""
        ...

    async def load(self, name: str) -> None:
        """Reads a model anew. Raises ZooError where a version of it is refused: what was served goes on."""
        ...

    async def unload(self, name: str) -> None:
        """Takes a model out, once it has answered what it was asked. Raises ZooError where there is none."""
        ...


class RepositoryControl:
    """Answers the calls of the extension, whichever door they come through."""

    def __init__(self, repository: ModelRepository, *, may_load: bool) -> None:
        """`may_load`: whether clients may load and unload models; the index is told anyhow."""
        self._repository = repository
        self._may_load = may_load

    @property
    def unloaded(self) -> Collection[str]:
        """Names of models that are out because somebody asked for it."""
        return self._repository.unloaded

    @property
    def refused(self) -> Collection[str]:
        """Versions whose files are not served as they are now, such as `flowers:2`."""
        return self._repository.refused

    async def index(self, *, ready: bool) -> list[dict[str, str]]:
        """What there is; only what is served where `ready` is asked for."""
        return [entry.to_json() for entry in await self._repository.index() if entry.ready or not ready]

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """Reads a model anew. Raises ProtocolError where that is not allowed, or its file is refused."""
        self._check_allowed()
        if parameters:
            raise ProtocolError(f"load parameter: {min(parameters)!r:.80}; none is known, the file is read as it is")
        await _whole(self._repository.load(name))

    async def unload(self, name: str) -> None:
        """Takes a model out. Raises ProtocolError where that is not allowed, or there is none."""
        self._check_allowed()
        await _whole(self._repository.unload(name))

    def _check_allowed(self) -> None:
        if not self._may_load:
            raise ProtocolError("explicit model load / unload is not allowed; start the server with --allow-load", 403)


def read_control(body: bytes) -> Mapping[str, Any]:
    """The JSON object in the body of a call; an empty body is an empty one. Raises ProtocolError for anything else."""
    try:
        value = orjson.loads(body) if body else {}
    except ValueError as error:
        raise ProtocolError(f"request is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("parameters") or {}, dict):
        raise ProtocolError("request must be a JSON object, and its parameters, too")
    return value


async def _whole(change: Coroutine[Any, Any, None]) -> None:
    """A change is not left half made where the client who asked for it leaves."""
    try:
        await asyncio.shield(asyncio.create_task(change))
    except ZooError as error:
        raise ProtocolError(str(error)) from None
