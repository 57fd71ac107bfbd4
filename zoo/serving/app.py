"""What the server answers: the routes of the Open Inference Protocol v2, and metrics."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Collection
from math import ceil
from time import monotonic
from typing import Any

from zoo import __version__
from zoo.serving.batching import Arrays, OverloadedError
from zoo.serving.http import Answer, Request, Response
from zoo.serving.inference import Inference
from zoo.serving.metrics import exposition
from zoo.serving.models import Models, Served
from zoo.serving.openapi import openapi
from zoo.serving.predict import Predict
from zoo.serving.protocol import (
    EXTENSIONS,
    InferRequest,
    build_response,
    model_config,
    model_metadata,
)
from zoo.serving.repository import RepositoryControl, read_control
from zoo.serving.site import describe_models, pages
from zoo.serving.tensors import ProtocolError

_JSON_LENGTH = b"inference-header-content-length"
_LARGE = 2**16
"""Bytes of JSON, or of a packed body, from which on it is read in a thread: meanwhile others are answered."""
_MANY_BYTES = 1024
"""Answers are only packed from this size on."""

Route = Callable[[], Response]
"""What is answered to GET, whatever else the request says."""


class App:
    """The handler of all requests."""

    def __init__(
        self,
        models: Models,
        inference: Inference,
        repository: RepositoryControl,
        *,
        required: Collection[str],
        max_body: int,
    ) -> None:
        self.models = models
        self.repository = repository
        self.required = frozenset(required)
        """Names without which the server is not ready."""
        self.leaving = False
        """Whether the server is about to go: it answers, and is not ready."""
        self.connections: Callable[[], int] = lambda: 0
        self._max_body = max_body
        self.inference = inference
        self._predict = Predict(models, inference)
        self._routes: dict[str, Route] = {
            "/v2": self._metadata,
            "/v2/health/live": lambda: Response.json({"live": True}),
            "/v2/health/ready": self._health,
            "/v2/models/stats": self._all_statistics,
            "/metrics": self._metrics,
            "/models": lambda: Response.json(describe_models(self.models)),
            "/openapi.json": lambda: Response.json(openapi()),
            **{path: _fixed(page) for path, page in pages().items()},
        }

    @property
    def ready(self) -> bool:
        """Whether a load balancer may send requests here."""
        return not self._missing and not self.leaving

    @property
    def _missing(self) -> list[str]:
        wanted = self.required.difference(self.repository.unloaded)
        return sorted(name for name in wanted if not self.models.versions(name))

    def __call__(self, request: Request) -> Answer:
        """The answer to a request, or an awaitable of it. Never raises."""
        try:
            return self._route(request)
        except ProtocolError as error:
            return _refusal(error)

    def _route(self, request: Request) -> Answer:
        path = request.path
        if path.startswith("/v2/models/") and path != "/v2/models/stats":
            return self._of_model(request, path.split("/")[3:])
        if path.startswith("/v2/repository/"):
            return _allowed(request, "POST") or self._of_repository(request, path.split("/")[3:])
        if path == "/predict":
            return _allowed(request, "POST") or self._predict_labels(request)
        route = self._routes.get(path)
        if route is None:
            raise ProtocolError(f"Not Found: {request.method} {path:.200}", 404)
        return _allowed(request, "GET") or route()

    def _of_model(self, request: Request, words: list[str]) -> Answer:
        """NAME[/versions/V][/ready|/config|/stats|/infer]"""
        name, version, rest = words[0], None, words[1:]
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if rest == ["infer"]:
            return _allowed(request, "POST") or self._infer(request, self.models.find(name, version))
        if len(rest) > 1 or (rest and rest[0] not in ("ready", "config", "stats")):
            raise ProtocolError(f"Not Found: {request.method} {request.path:.200}", 404)
        wrong = _allowed(request, "GET")
        if wrong is not None:
            return wrong
        served = self.models.find(name, version)
        if not rest:
            return Response.json(model_metadata(served.model, self.models.versions(name)))
        if rest == ["ready"]:
            return Response.json({"name": name, "ready": True})
        if rest == ["config"]:
            return Response.json(model_config(served.model, served.pace.max_batch))
        return Response.json({"model_stats": [self._statistics(served)]})

    async def _of_repository(self, request: Request, words: list[str]) -> Response:
        """index, or models/NAME/load, or models/NAME/unload"""
        try:
            asked = read_control(request.body)
            if words == ["index"]:
                return Response.json(await self.repository.index(ready=asked.get("ready") is True))
            if len(words) != 3 or words[0] != "models" or words[2] not in ("load", "unload"):
                raise ProtocolError(f"Not Found: {request.method} {request.path:.200}", 404)
            if words[2] == "load":
                await self.repository.load(words[1], asked.get("parameters") or {})
            else:
                await self.repository.unload(words[1])
        except ProtocolError as error:
            return _refusal(error)
        return Response.json({})

    def _metadata(self) -> Response:
        return Response.json({"name": "zoo", "version": __version__, "extensions": EXTENSIONS})

    def _all_statistics(self) -> Response:
        return Response.json({"model_stats": [self._statistics(served) for served in self.models]})

    def _statistics(self, served: Served) -> dict[str, Any]:
        metrics, exits = self.models.metrics(served), served.model.exits
        value = metrics.to_json()
        return value if exits is None else {**value, "exits": exits.to_json(metrics.exits or exits.counts)}

    def _health(self) -> Response:
        told = {"ready": self.ready, "missing": self._missing, "refused": list(self.repository.refused)}
        return Response.json(told, status=200 if self.ready else 503)

    def _metrics(self) -> Response:
        waiting = [(each.model.name, each.model.version, each.batcher.waiting) for each in self.models]
        text = exposition([self.models.metrics(each) for each in self.models], waiting, self.connections())
        return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    async def _predict_labels(self, request: Request) -> Response:
        served = None
        try:
            served = self._predict.find(request)
            return _packed(await self._predict(request, served), request.header(b"accept-encoding"))
        except ProtocolError as error:
            return _refusal(error) if served is None else self._refused(request, served, error)

    def _infer(self, request: Request, served: Served) -> Answer:
        encoding = request.header(b"content-encoding")
        length = request.header(_JSON_LENGTH)
        packed = encoding not in (None, "", "identity")
        if packed or (length is None and len(request.body) > _LARGE):
            return self._infer_later(request, served, encoding or "", length)
        try:
            self.inference.check(served, request.received)
            parsed = served.requests.read(request.body, length)
            asked = self.inference.ask(served, parsed, request.received)
        except ProtocolError as error:
            return self._refused(request, served, error)
        return self._finish(request, served, parsed, asked)

    async def _infer_later(self, request: Request, served: Served, encoding: str, length: str | None) -> Response:
        """With a body that takes time to read."""

        def read() -> InferRequest:
            return served.requests.read(_unpacked(request.body, encoding, self._max_body), length)

        try:
            parsed = await self.inference.read(served, request.received, read)
            asked = self.inference.ask(served, parsed, request.received)
        except ProtocolError as error:
            return self._refused(request, served, error)
        return await self._finish(request, served, parsed, asked)

    async def _finish(
        self, request: Request, served: Served, parsed: InferRequest, asked: asyncio.Future[Arrays]
    ) -> Response:
        try:
            content, length = build_response(served.model, parsed, await asked)
        except ProtocolError as error:
            return self._refused(request, served, error)
        response = Response(content)
        if length is not None:
            response.content_type = "application/octet-stream"
            response.headers = {"Inference-Header-Content-Length": str(length)}
        served.metrics.answered(200, monotonic() - request.received)
        return _packed(response, request.header(b"accept-encoding"))

    def _refused(self, request: Request, served: Served, error: ProtocolError) -> Response:
        served.metrics.answered(error.status, monotonic() - request.received)
        return _refusal(error)


def _fixed(response: Response) -> Route:
    return lambda: response


def _allowed(request: Request, method: str) -> Response | None:
    """A refusal where the request has another method."""
    if request.method == method or (method == "GET" and request.method == "HEAD"):
        return None
    return Response.error(f"Method Not Allowed: {request.method} {request.path:.200}", 405, headers={"Allow": method})


def _refusal(error: ProtocolError) -> Response:
    error.forget()
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    return Response.error(str(error), error.status, headers=headers)


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding not in ("gzip", "deflate"):
        raise ProtocolError(f"Content-Encoding: {encoding!r:.40}; gzip, deflate or none", 415)
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two headers it is
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"body is not {encoding}: {error}") from None
    if len(plain) > limit:
        raise ProtocolError(f"request too large: at most {limit:,} bytes", 413)
    if not inflater.eof:
        raise ProtocolError(f"{encoding} body is cut off")
    return plain


def _packed(response: Response, accepted: str | None) -> Response:
    """The answer as gzip or deflate where the client takes it and it is large."""
    if accepted is None or len(response.body) < _MANY_BYTES:
        return response
    for encoding, bits in (("gzip", zlib.MAX_WBITS | 16), ("deflate", zlib.MAX_WBITS)):
        if encoding in accepted:
            packer = zlib.compressobj(1, wbits=bits)
            response.body = packer.compress(response.body) + packer.flush()
            response.headers = {**response.headers, "Content-Encoding": encoding, "Vary": "Accept-Encoding"}
            break
    return response
