"""Sends requests over many connections, and keeps the time of each.

httptools parses answers, and bodies are dropped unread: the less the generator does, the less it takes from a server on
the same machine.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from math import inf
from time import monotonic
from typing import cast

import httptools

from zoo.client.address import Address

BUSY = "429"
"""What a server answers that is too busy."""
_PAUSE = 0.1
"""Seconds between attempts to connect."""
_TIMER = 0.001
"""Seconds: what timers of an event loop can tell apart."""
_GRAIN = 2 * _TIMER
"""Seconds by which such timers may be late: up to so much is not the server's."""


class Tally:
    """What came of requests."""

    def __init__(self) -> None:
        self.began = inf
        """What started before is warm-up, and does not count."""
        self.came = 0
        """Answers with status 200 since then, also to what started before: as many are under way at the end."""
        self.seconds = array("d")
        """Of each answer with status 200, in the order in which they came."""
        self.refused = array("d")
        """The same of each refusal of a server that is too busy: 429."""
        self.failures: Counter[str] = Counter()
        """By status, or `connection` where one broke, or `unanswered`."""

    def add(self, start: float, failure: str | None) -> None:
        """Counts a request that started at `start` and is over now."""
        now = monotonic()
        if failure is None and now >= self.began:
            self.came += 1
        if start < self.began:
            return
        if failure is None:
            self.seconds.append(now - start)
            return
        self.failures[failure] += 1
        if failure == BUSY:
            self.refused.append(now - start)


class Generator:
    """Keeps connections busy: each asks again once it has its answer, or, at a rate, when a request is due."""

    def __init__(
        self, address: Address, messages: Iterator[bytes], *, connections: int, rate: float | None, timeout: float
    ) -> None:
        """`messages` are whole requests, without end; `rate` is how many a second are due."""
        self.tally = Tally()
        self._address = address
        self._messages = messages
        self._count = connections
        self._interval = None if rate is None else 1 / rate
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._open: set[_Connection] = set()
        self._free: deque[_Connection] = deque()
        """At a rate: those with nothing to do."""
        self._due: deque[float] = deque()
        """At a rate: when requests were due that no connection was free for."""
        self._next_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Begins to send."""
        for _ in range(self._count):
            self._connect()
        if self._interval is not None:
            self._next_due = monotonic()
            self._arrive()

    async def stop(self) -> None:
        """Sends nothing new, waits for what is under way, and counts what does not come as unanswered."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        until = monotonic() + self._timeout
        while (self._due or any(each.start is not None for each in self._open)) and monotonic() < until:
            await asyncio.sleep(_GRAIN)
        self.abandon()

    def abandon(self) -> None:
        """Ends all connections, and counts what is under way as unanswered."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._opening:
            task.cancel()
        for start in self._due:
            self.tally.add(start, "unanswered")
        self._due.clear()
        for connection in list(self._open):
            connection.abandon("unanswered")

    def idle(self, connection: _Connection) -> None:
        """Called by a connection that can send."""
        if self._due:
            connection.send(next(self._messages), self._due.popleft())
        elif self._interval is not None:
            self._free.append(connection)
        elif not self._stopping:
            connection.send(next(self._messages), monotonic())

    def opened(self, connection: _Connection) -> None:
        """Called by a new connection."""
        self._open.add(connection)
        self.idle(connection)

    def lost(self, connection: _Connection) -> None:
        """Called by a connection that is no more: another one takes its place."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if not self._stopping or self._due:
            self._connect()

    def _connect(self) -> None:
        task = self._loop.create_task(self._try_to_connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _try_to_connect(self) -> None:
        host, port, tls = self._address.host, self._address.port, self._address.tls
        while True:
            start = monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._loop.create_connection(lambda: _Connection(self), host, port, ssl=tls)
                return
            except OSError:  # also a timeout
                self.tally.add(start, "connection")
            await asyncio.sleep(_PAUSE)

    def _arrive(self) -> None:
        """Sends what is due. Its time runs from when it was due, whether or not a connection was free for it: else a
        server that stalls would put off the very requests that show it ("coordinated omission", Gil Tene)."""
        assert self._interval is not None
        now = monotonic()
        while self._next_due <= now:
            self._due.append(min(now, self._next_due + _GRAIN))
            self._next_due += self._interval
        while self._due and self._free:
            self._free.popleft().send(next(self._messages), self._due.popleft())
        self._timer = self._loop.call_later(max(_TIMER, self._next_due - monotonic()), self._arrive)


class _Connection(asyncio.Protocol):
    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.start: float | None = None
        """From when on its request counts; None between two."""

    def send(self, message: bytes, start: float) -> None:
        assert self._transport is not None
        self.start = start
        self._transport.write(message)

    def abandon(self, failure: str) -> None:
        self._finish(failure)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._generator.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abandon("connection")

    def on_message_complete(self) -> None:
        """Called by the parser behind the last byte of an answer."""
        status = self._parser.get_status_code()
        self._finish(None if status == 200 else str(status))
        if self._parser.should_keep_alive():
            self._generator.idle(self)
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._finish("connection")
        self._generator.lost(self)

    def _finish(self, failure: str | None) -> None:
        start, self.start = self.start, None
        if start is not None:
            self._generator.tally.add(start, failure)
