"""A server from its first connection to its last: signals, drain, timers."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from zoo.serving.app import App
from zoo.serving.http import Connections

_TICK_SECONDS = 1.0
_POLL_SECONDS = 0.05
_BACKLOG = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a server ends, on SIGTERM or SIGINT."""

    delay: float = 0.0
    """Seconds for which it goes on answering all, with its readiness false: a load balancer needs them to notice."""
    drain: float = 30.0
    """Seconds that requests under way have after that."""


class Door(Protocol):
    """Another way to the same models."""

    async def start(self) -> None:
        """Takes requests from now on."""
        ...

    async def stop(self, seconds: float) -> None:
        """Takes no new requests; those under way have so long."""
        ...


class HttpServer:
    """Takes connections from one socket, and opens and closes another door with it."""

    def __init__(
        self,
        app: App,
        connections: Connections,
        listener: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        door: Door | None = None,
    ) -> None:
        self._app = app
        self._connections = connections
        self._listener = listener
        self._tls = tls
        self._door = door
        self._asked = asyncio.Event()
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        """Asks it to end; for a second time, to end at once."""
        (self._hurried if self._asked.is_set() else self._asked).set()

    async def run(
        self, ready: Callable[[], None], ending: Ending, beside: Sequence[Coroutine[Any, Any, None]] = ()
    ) -> None:
        """Serves until SIGTERM or SIGINT, then refuses new connections, answers what was asked and returns.

        `ready` is called once connections are taken; what runs `beside` is cancelled at the end.
        """
        loop = asyncio.get_running_loop()
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.stop))
            for number in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        server = await loop.create_server(self._connections.make, sock=self._listener, ssl=self._tls, backlog=_BACKLOG)
        tasks = [asyncio.create_task(each) for each in (_tick(self._connections), *beside)]
        if self._door is not None:
            await self._door.start()
        try:
            ready()
            await self._asked.wait()
            self._app.leaving = True
            await _unless(self._hurried, ending.delay)
            server.close()
            await asyncio.gather(self._drain(ending.drain), self._close_door(ending.drain))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _close_door(self, seconds: float) -> None:
        if self._door is None:
            return
        closing = asyncio.create_task(self._door.stop(seconds))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait([closing, hurried], return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not closing.done():
            await self._door.stop(0.0)
        await closing

    async def _drain(self, seconds: float) -> None:
        """Ends connections behind their answers. What is already on the wire still counts as asked: connections at
        rest are closed a moment later."""
        self._connections.closing = True
        await _unless(self._hurried, _POLL_SECONDS)
        until = monotonic() + seconds
        while self._connections.close_idle() and monotonic() < until and not self._hurried.is_set():
            await _unless(self._hurried, _POLL_SECONDS)


async def _tick(connections: Connections) -> None:
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        connections.tick()


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Waits for so long, or until the event."""
    if seconds > 0:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
