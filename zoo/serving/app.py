"""The HTTP side: routes, bodies, errors that are always `{"error": ...}`."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from zoo import __version__
from zoo.serving.protocol import (
    EXTENSIONS,
    VERSION,
    ServedModel,
    build_response,
    model_metadata,
    model_statistics,
    parse_request,
)
from zoo.serving.tensors import ProtocolError

MAX_BODY_BYTES = 64 * 1024**2
_HEADER = "Inference-Header-Content-Length"
_AT_ONCE = 2
"""Requests worked on at a time: one computes (on all of a session's threads) while another is parsed."""

_log = logging.getLogger(__name__)


def make_app(models: Sequence[ServedModel], *, max_body: int = MAX_BODY_BYTES) -> Starlette:
    """An ASGI application that serves loaded models by name."""
    server = _Server({model.name: model for model in models}, max_body)
    model = "/v2/models/{model}"
    versioned = model + "/versions/{version}"
    routes = [
        Route("/v2", server.metadata),
        Route("/v2/health/live", server.live),
        Route("/v2/health/ready", server.ready),
        *(Route(prefix, server.model_metadata) for prefix in (model, versioned)),
        *(Route(f"{prefix}/ready", server.model_ready) for prefix in (model, versioned)),
        *(Route(f"{prefix}/stats", server.model_stats) for prefix in (model, versioned)),
        *(Route(f"{prefix}/infer", server.infer, methods=["POST"]) for prefix in (model, versioned)),
    ]
    handlers = {ProtocolError: _protocol_error, HTTPException: _http_error, Exception: _internal_error}
    return Starlette(
        routes=routes,
        exception_handlers=handlers,  # type: ignore[arg-type]
        middleware=[Middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)],
    )


class _Server:
    def __init__(self, models: Mapping[str, ServedModel], max_body: int) -> None:
        self._models = models
        self._max_body = max_body
        self._answered = Counter[str]()
        self._limiter: anyio.CapacityLimiter | None = None

    async def metadata(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"name": "zoo", "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        # Models are loaded before the socket opens: whoever gets an answer finds them ready.
        return JSONResponse({"ready": True})

    async def model_metadata(self, request: Request) -> Response:
        return JSONResponse(model_metadata(self._find(request)))

    async def model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._find(request).name, "ready": True})

    async def model_stats(self, request: Request) -> Response:
        model = self._find(request)
        return JSONResponse(model_statistics(model, self._answered[model.name]))

    async def infer(self, request: Request) -> Response:
        model = self._find(request)
        body = await self._body(request)
        header = request.headers.get(_HEADER)

        def answer() -> tuple[bytes, int | None]:
            parsed = parse_request(model, body, header)
            answers = model.infer(parsed.feeds, [wanted.name for wanted in parsed.wanted])
            return build_response(model, parsed, answers)

        # A limiter belongs to the running event loop, so it is made in it.
        self._limiter = self._limiter or anyio.CapacityLimiter(_AT_ONCE)
        # In a thread, so that health checks are answered meanwhile.
        content, json_length = await anyio.to_thread.run_sync(answer, limiter=self._limiter)
        self._answered[model.name] += 1
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={_HEADER: str(json_length)})

    def _find(self, request: Request) -> ServedModel:
        name, version = request.path_params["model"], request.path_params.get("version", VERSION)
        if name not in self._models:
            raise ProtocolError(f"unknown model: {name!r}; this server has {', '.join(self._models)}", 404)
        if version != VERSION:
            raise ProtocolError(f"unknown version of {name}: {version!r}; it has {VERSION}", 404)
        return self._models[name]

    async def _body(self, request: Request) -> bytes:
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > self._max_body:
                    raise self._too_large()
                parts.append(part)
        except ClientDisconnect:
            raise ProtocolError("the client left before its request was complete") from None
        return self._inflate(b"".join(parts), request.headers.get("content-encoding", "identity").strip().lower())

    def _inflate(self, body: bytes, encoding: str) -> bytes:
        if encoding in ("identity", ""):
            return body
        if encoding not in ("gzip", "deflate"):
            raise ProtocolError(f"Content-Encoding: {encoding!r:.40}; gzip, deflate or none", 415)
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two headers it is
        try:
            plain = inflater.decompress(body, self._max_body + 1)
        except zlib.error as error:
            raise ProtocolError(f"body is not {encoding}: {error}") from None
        if len(plain) > self._max_body:
            raise self._too_large()
        if not inflater.eof:
            raise ProtocolError(f"{encoding} body is cut off")
        return plain

    def _too_large(self) -> ProtocolError:
        return ProtocolError(f"request too large: at most {self._max_body:,} bytes", 413)


async def _protocol_error(request: Request, error: ProtocolError) -> Response:  # noqa: ARG001
    return JSONResponse({"error": str(error)}, status_code=error.status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse(
        {"error": f"{error.detail}: {request.method} {request.url.path}"},
        status_code=error.status_code,
        headers=error.headers,
    )


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("failed at %s %s", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "internal error; see the server's log"}, status_code=500)
