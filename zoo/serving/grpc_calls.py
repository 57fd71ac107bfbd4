"""gRPC calls: who may make them, how errors are told, and what stands in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from zoo.serving.grpc_messages import message
from zoo.serving.http import Finished, Refuse, Request, Response
from zoo.serving.tensors import ProtocolError

if TYPE_CHECKING:
    from zoo.serving.tracing import Trace, Tracing

_LEFT = 499
"""Said in the log of calls that ended without an answer, as nginx says it of HTTP."""
_CODES = {
    200: grpc.StatusCode.OK,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    _LEFT: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_log = logging.getLogger(__name__)

T = TypeVar("T")
Context = Any
Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Context], Awaitable[None]]


class Calls:
    """The methods of a server, by their paths. Callers without a key are refused before their message is read."""

    def __init__(self, *, refuse: Refuse | None, finished: Finished | None, tracing: Tracing | None) -> None:
        """`refuse` and `finished` as `zoo.serving.http.Connections` has them."""
        self._refuse = refuse
        self._finished = finished
        self._tracing = tracing
        self._handlers: dict[str, Any] = {}
        self._open: set[str] = set()

    def service(self, details: Any) -> Any:
        """The handler of a call of which no more than the metadata is read; None where there is none."""
        path = details.method
        if self._refuse is not None and path in self._handlers and path not in self._open:
            refusal = self._refuse(_as_request(path, details.invocation_metadata, ""))
            if refusal is not None:
                return self._refused(path, refusal.status)
        return self._handlers.get(path)

    def unary(self, path: str, request: str, method: Unary, *, needs_key: bool = True) -> None:
        """Adds a method of one message, of the type `request`, and one answer."""

        async def answer(body: bytes, context: Context) -> bytes:
            async def work() -> bytes:
                return serialize(await method(parse(request, body), context))

            return await self._run(path, context, work, body)

        self._add(path, grpc.unary_unary_rpc_method_handler(answer), needs_key)

    def stream(self, path: str, method: Stream, *, needs_key: bool = True) -> None:
        """Adds a method that reads messages and writes answers, as bytes, when it wants."""

        async def answer(_: object, context: Context) -> None:
            await self._run(path, context, lambda: method(context))

        self._add(path, grpc.stream_stream_rpc_method_handler(answer), needs_key)

    def _add(self, path: str, handler: Any, needs_key: bool) -> None:
        self._handlers[path] = handler
        if not needs_key:
            self._open.add(path)

    def _refused(self, path: str, status: int) -> Any:
        async def work() -> bytes:
            raise ProtocolError("no valid API key; send it as authorization or x-api-key", status)

        async def answer(_: object, context: Context) -> bytes:
            return await self._run(path, context, work)

        # As one that may read messages, and does not.
        return grpc.stream_unary_rpc_method_handler(answer)

    async def _run(self, path: str, context: Context, work: Callable[[], Awaitable[T]], body: bytes = b"") -> T:
        """What `work` gives; where it fails, the caller is told why."""
        heard = _as_request(path, context.invocation_metadata(), context.peer())
        heard.body = body
        trace = self._tracing.of_grpc(heard) if self._tracing is not None and path not in self._open else None
        await context.send_initial_metadata((("x-request-id", heard.id.decode()),))
        try:
            value = await work()
        except ProtocolError as error:
            error.forget()
            self._end(heard, error.status, trace)
            await context.abort(_code(error.status), str(error))
        except asyncio.CancelledError:  # the client left, or the server could not wait any longer
            self._end(heard, _LEFT, trace)
            raise
        except Exception as error:
            self._end(heard, 500, trace)
            await context.abort(grpc.StatusCode.INTERNAL, internal_error(path, error))
        self._end(heard, 200, trace, value if isinstance(value, bytes) else b"")
        return value

    def _end(self, request: Request, status: int, trace: Trace | None, body: bytes = b"") -> None:
        if trace is not None:
            trace.end("rpc.grpc.status_code", _code(status).value[0], failed=status >= 499)
        if self._finished is not None:
            self._finished(request, Response(body, status=status))


def parse(name: str, body: bytes) -> Any:
    """The message of a type. Raises ProtocolError for bytes that are none."""
    try:
        return message(name).FromString(body)
    except DecodeError:
        raise ProtocolError(f"not a message: {len(body)} bytes; send {name}") from None


def serialize(value: Any) -> bytes:
    """The bytes of a message."""
    return bytes(value.SerializeToString())


def internal_error(path: str, error: Exception) -> str:
    """What a client is told of an error of ours; more of it is in the log."""
    _log.error("failed at %s", path, exc_info=error)
    return "internal error; see the server's log"


def _code(status: int) -> Any:
    return _CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT)


def _as_request(path: str, metadata: Any, peer: str) -> Request:
    """A call as guards and logs know requests."""
    headers = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in metadata or ()}
    return Request("POST", path.encode(), headers, peer)
