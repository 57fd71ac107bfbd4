"""HTTP/1.1: connections, requests, responses, and what a client can do to the server.

httptools parses; what stands here is what a general server framework would do per request around it, which on a small
network costs more than the network. Handlers are plain functions: where one can answer at once there is no task.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from secrets import token_hex
from time import monotonic
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson

_LINGER_SECONDS = 2.0
_ID = re.compile(rb"[!-~]{1,128}\Z")
_PROCESS = token_hex(4).encode()
_count = itertools.count()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take of the server."""

    body: int = 64 * 2**20
    """Bytes of a request, also after it is unpacked."""
    head: int = 64 * 2**10
    """Bytes before the body."""
    connections: int = 4096
    receive_seconds: float = 30.0
    """From a request's first byte to its last, and for a client to take its answer."""
    idle_seconds: float = 75.0
    """Between two requests."""


class Request:
    """One request. Names of headers are lower case."""

    __slots__ = ("body", "headers", "id", "keep_alive", "method", "path", "peer", "query", "received")

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes], peer: str) -> None:
        self.method = method
        path, _, query = target.partition(b"?")
        text = path.decode("ascii", "replace")
        self.path = unquote(text) if "%" in text else text
        self.query = query.decode("ascii", "replace")
        self.headers = headers
        self.peer = peer
        given = headers.get(b"x-request-id", b"")
        self.id: bytes = given if _ID.match(given) else b"%b-%x" % (_PROCESS, next(_count))
        """The client's own, or one by which it is found in the log."""
        self.body = b""
        self.keep_alive = True
        self.received = monotonic()
        """When its head was there, by `time.monotonic`."""

    def header(self, name: bytes) -> str | None:
        """The value of a header, None where it was not sent."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Response:
    """One answer. The body is sent whole."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers or {}

    @classmethod
    def json(cls, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """`value` as JSON."""
        return cls(orjson.dumps(value), status=status, headers=headers)

    @classmethod
    def error(cls, message: str, status: int, *, headers: Mapping[str, str] | None = None) -> Response:
        """`{"error": message}`, as every client of the protocol expects it on every path."""
        return cls.json({"error": message}, status=status, headers=headers)


Answer = Response | Coroutine[Any, Any, Response]
Handler = Callable[[Request], Answer]
Refuse = Callable[[Request], Response | None]
Finished = Callable[[Request, Response], None]


class Connections:
    """All connections of a server, and what they share."""

    def __init__(
        self, handler: Handler, *, limits: Limits, refuse: Refuse | None = None, finished: Finished | None = None
    ) -> None:
        """`refuse` may answer a request before its body is there; `finished` is told of every answer."""
        self.handler = handler
        self.limits = limits
        self.refuse = refuse
        self.finished = finished
        self.all: set[Connection] = set()
        self.closing = False
        """Whether each connection closes behind its next answer."""
        self.date = b""
        self.tick()

    def make(self) -> Connection:
        """A new connection, for `asyncio.loop.create_server`."""
        return Connection(self)

    def tick(self) -> None:
        """To be called once a second: closes connections whose time is over."""
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now = monotonic()
        for connection in [each for each in self.all if each.deadline < now]:
            connection.expire()

    def close_idle(self) -> int:
        """Closes connections on which nothing is under way, and gives the number of the others."""
        for connection in [each for each in self.all if each.is_idle]:
            connection.close()
        return len(self.all)


class Connection(asyncio.Protocol):
    """One client. Requests that it sends before it has its answer wait for their turn."""

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._request: Request | None = None
        """The one that is being received, from its last header on."""
        self._waiting: deque[Request] = deque()
        self._answering: Request | None = None
        self._pending: asyncio.Future[Response] | None = None
        self._refused = False
        self._full = False
        self.deadline = inf

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received or answered, and no answer is still to be taken."""
        assert self._transport is not None
        busy = self._answering is not None or self._head_size > 0 or self._request is not None
        return not busy and self._transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a new client."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "local"
        full = len(self._shared.all) >= self._shared.limits.connections
        self._shared.all.add(self)
        self.deadline = monotonic() + self._shared.limits.receive_seconds
        if full:
            self._refuse(Response.error("too many connections; try again later", 503, headers={"Retry-After": "1"}))

    def connection_lost(self, _: Exception | None) -> None:
        """Drops what nobody waits for any more."""
        self._shared.all.discard(self)
        self._waiting.clear()
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, data: bytes) -> None:
        """Takes in some bytes."""
        if self._refused:
            return
        if self._request is None:
            if not self._head_size:
                self.deadline = monotonic() + self._shared.limits.receive_seconds
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing else is spoken here: the request is answered as it stands
        except httptools.HttpParserError as error:
            if not self._refused:
                self._refuse(Response.error(f"request is not HTTP/1.1: {error}", 400))
        if self._request is None and self._head_size > self._shared.limits.head and not self._refused:
            self._refuse(Response.error(f"headers too large: at most {self._shared.limits.head:,} bytes", 431))

    def on_url(self, url: bytes) -> None:
        """Called by the parser with a part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with each header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by the parser behind the last header."""
        headers, self._headers = self._headers, {}
        self._request = Request(self._parser.get_method().decode(), self._target, headers, self._peer)
        self._target = b""
        declared = headers.get(b"content-length", b"")
        if declared and int(declared) > self._shared.limits.body:
            self._refuse(self._too_large())
            return
        early = self._shared.refuse(self._request) if self._shared.refuse is not None else None
        if early is not None:
            self._refuse(early)
        elif headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the body."""
        self._body_size += len(body)
        if self._body_size > self._shared.limits.body:
            if not self._refused:
                self._refuse(self._too_large())
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser behind the last byte of a request."""
        request, self._request, self._head_size = self._request, None, 0
        parts, self._body, self._body_size = self._body, [], 0
        if self._refused or request is None:
            return
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        request.keep_alive = self._parser.should_keep_alive()
        self.deadline = inf
        if self._answering is None:
            self._answer(request)
            return
        self._waiting.append(request)
        if self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Called where the client does not take its answers: it gets no further ones."""
        self._full = True

    def resume_writing(self) -> None:
        """Called where it has taken them."""
        self._full = False
        self._next()

    def expire(self) -> None:
        """Ends a connection whose time is over."""
        if self._transport is None:
            return
        if self._refused or self._transport.get_write_buffer_size():
            self._transport.abort()
        elif self._head_size or self._request is not None:
            self._refuse(Response.error("the request was too slow", 408))
        else:
            self._transport.close()

    def close(self) -> None:
        """Ends the connection once what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def _answer(self, request: Request) -> None:
        self._answering = request
        try:
            answer = self._shared.handler(request)
        except Exception as error:
            self._send(request, _internal_error(request, error))
            return
        if isinstance(answer, Response):
            self._send(request, answer)
            return
        self._pending = self._loop.create_task(answer)
        self._pending.add_done_callback(self._answered)

    def _answered(self, future: asyncio.Future[Response]) -> None:
        self._pending = None
        request = self._answering
        if request is None or future.cancelled():
            return
        error = future.exception()
        self._send(request, future.result() if error is None else _internal_error(request, error))

    def _send(self, request: Request, response: Response) -> None:
        transport = self._transport
        self._answering = None
        if transport is None or transport.is_closing():
            return
        keep_alive = request.keep_alive and not self._shared.closing
        transport.write(_encode(request, response, self._shared.date, keep_alive=keep_alive))
        if self._shared.finished is not None:
            self._shared.finished(request, response)
        if not keep_alive:
            transport.close()
            return
        self.deadline = monotonic() + self._shared.limits.idle_seconds
        if self._waiting:
            # By the loop, so that a client with a thousand requests in one packet does not deepen the stack.
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._answering is None and self._waiting and self._transport is not None and not self._full:
            self._answer(self._waiting.popleft())
            if not self._waiting and not self._transport.is_closing():
                self._transport.resume_reading()

    def _refuse(self, response: Response) -> None:
        """Answers before the request is complete, and takes no other one. What the client still sends is dropped for a
        while: closing at once would take the answer from it."""
        self._refused, self._head_size = True, 0
        request = self._request or Request("GET", b"", {}, self._peer)
        self._request = None
        if self._transport is None:
            return
        self._transport.write(_encode(request, response, self._shared.date, keep_alive=False))
        if self._shared.finished is not None:
            self._shared.finished(request, response)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.deadline = monotonic() + _LINGER_SECONDS

    def _too_large(self) -> Response:
        return Response.error(f"request too large: at most {self._shared.limits.body:,} bytes", 413)


def _encode(request: Request, response: Response, date: bytes, *, keep_alive: bool) -> bytes:
    head = b"%b%bx-request-id: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
        _STATUS_LINES[response.status],
        date,
        request.id,
        response.content_type.encode(),
        len(response.body),
    )
    for name, value in response.headers.items():
        head += f"{name.lower()}: {value}\r\n".encode("latin-1", "replace")
    if not keep_alive:
        head += b"connection: close\r\n"
    return head + b"\r\n" + (b"" if request.method == "HEAD" else response.body)


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def _internal_error(request: Request, error: BaseException) -> Response:
    _log.error("failed at %s %s", request.method, request.path, exc_info=error)
    return Response.error("internal error; see the server's log", 500)
