"""A server from its first connection to its last: signals, drain, timers."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from zoo.serving.app import App
from zoo.serving.http import Connections

_TICK_SECONDS = 1.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a server ends, on SIGTERM or SIGINT."""

    delay: float = 0.0
    """Seconds for which it goes on answering all, with its readiness false: a load balancer needs them to notice."""
    drain: float = 30.0
    """Seconds that requests under way have after that."""


async def listen(
    app: App,
    connections: Connections,
    listeners: Sequence[socket.socket],
    *,
    ready: Callable[[], None],
    ending: Ending,
    tls: ssl.SSLContext | None = None,
    stop_beside: Callable[[float], Awaitable[None]] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then refuses new connections, answers what was asked and returns.

    A second signal ends it at once. `ready` is called once connections are taken.
    `stop_beside` ends another door, whose requests under way have as many seconds as it is given.
    """
    loop, asked, hurried = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurried if asked.is_set() else asked).set()

    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    servers = [await loop.create_server(connections.make, sock=each, ssl=tls, backlog=2048) for each in listeners]
    ready()
    ticking = asyncio.create_task(_tick(connections))
    try:
        await asked.wait()
        app.leaving = True
        await _unless(hurried, ending.delay)
        for server in servers:
            server.close()
        beside = asyncio.ensure_future(stop_beside(ending.drain)) if stop_beside is not None else None
        await _drain(connections, hurried, ending.drain)
        if beside is not None and stop_beside is not None:
            await asyncio.wait([beside, asyncio.ensure_future(hurried.wait())], return_when=asyncio.FIRST_COMPLETED)
            await stop_beside(0.0)
            await beside
    finally:
        ticking.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


async def _tick(connections: Connections) -> None:
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        connections.tick()


async def _drain(connections: Connections, hurried: asyncio.Event, seconds: float) -> None:
    """Ends connections behind their answers. What is already on the wire still counts as asked: connections at rest
    are closed a moment later."""
    connections.closing = True
    await _unless(hurried, _POLL_SECONDS)
    until = monotonic() + seconds
    while connections.close_idle() and monotonic() < until and not hurried.is_set():
        await _unless(hurried, _POLL_SECONDS)


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Waits for so long, or until the event."""
    if seconds > 0:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return
