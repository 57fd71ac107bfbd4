"""OpenTelemetry traces (extra `otel`): a span for each request, and in it what it waited and what was computed.

Where they go, how many are kept and what the service is called is told by the OTEL_* variables of its specification.
A client's `traceparent` (W3C Trace Context) makes its own span the parent.
"""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import ContextVar
from time import monotonic, time_ns
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from zoo import __version__
from zoo.serving.batching import Job
from zoo.serving.http import Answer, Handler, Request, Response
from zoo.serving.model import ServedModel

_CLOSE_SECONDS = 3.0
_PARENT = ("traceparent", "tracestate")


class Trace:
    """The span of one request."""

    __slots__ = ("model_known", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.model_known = False

    def end(self, attribute: str, status: int, *, failed: bool) -> None:
        """Ends it with the status of the answer."""
        self.span.set_attribute(attribute, status)
        if failed:
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Of the request that is being answered."""


class Tracing:
    """Makes spans and sends them, in a thread of its own, to a collector."""

    def __init__(self) -> None:
        resource = Resource({"service.name": "zoo"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("zoo", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Sends what is left, in a few seconds: a collector that is away must not hold up the end of the server."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)

    def of_http(self, handler: Handler) -> Handler:
        """The handler with a span for each POST: GET is what probes, scrapers and pages ask."""

        def traced(request: Request) -> Answer:
            if request.method != "POST":
                return handler(request)
            route = _route(request.path)
            attributes = {"http.request.method": request.method, "url.path": request.path, "http.route": route}
            trace = self._begin(request, f"{request.method} {route}", attributes)
            token = _current.set(trace)
            try:
                answer = handler(request)
            finally:
                _current.reset(token)
            if isinstance(answer, Response):
                _end_http(trace, answer.status)
                return answer
            return _finish(trace, answer)

        return traced

    def of_grpc(self, request: Request) -> Trace:
        """A span for a call, for the rest of the task that answers it."""
        service, _, method = request.path.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        trace = self._begin(request, f"{service}/{method}", attributes)
        _current.set(trace)
        return trace

    def asked(self, model: ServedModel) -> Trace | None:
        """The trace of the request that asks a model now. A shadow, which is asked later, does not change its name."""
        trace = _current.get()
        if trace is not None and not trace.model_known:
            trace.model_known = True
            trace.span.set_attributes(_of_model(model))
        return trace

    def called(self, model: ServedModel, jobs: Sequence[Job], began: float, seconds: float) -> None:
        """Tells of a call of a model: when it began, by `time.monotonic`, and how long it took."""
        rows = sum(job.rows for job in jobs)
        for job in jobs:
            if not isinstance(job.mark, Trace):
                continue
            parent = set_span_in_context(job.mark.span)
            for name, start, end in (("queue", job.queued, began), ("compute", began, began + seconds)):
                span = self._tracer.start_span(name, parent, attributes=_of_model(model), start_time=_epoch(start))
                if name == "compute":
                    span.set_attribute("zoo.batch.size", rows)
                span.end(_epoch(end))

    def _begin(self, request: Request, name: str, attributes: Mapping[str, str]) -> Trace:
        given = {key: value for key in _PARENT if (value := request.header(key.encode())) is not None}
        return Trace(
            self._tracer.start_span(
                name,
                self._propagator.extract(given),
                kind=SpanKind.SERVER,
                attributes=attributes,
                start_time=_epoch(request.received),
            )
        )


async def _finish(trace: Trace, answer: Coroutine[Any, Any, Response]) -> Response:
    _current.set(trace)
    try:
        response = await answer
    except BaseException:  # the client has left, or it is our fault
        trace.span.set_status(StatusCode.ERROR, "no answer")
        trace.span.end()
        raise
    _end_http(trace, response.status)
    return response


def _end_http(trace: Trace, status: int) -> None:
    trace.end("http.response.status_code", status, failed=status >= 500)


def _route(path: str) -> str:
    """The path without what tells models apart, by which spans are grouped."""
    words = path.split("/")
    for number, word in enumerate(words[:-1]):
        if word in ("models", "versions") and words[1] == "v2":
            words[number + 1] = "{model}" if word == "models" else "{version}"
    return "/".join(words)


def _of_model(model: ServedModel) -> dict[str, str]:
    return {"zoo.model.name": model.name, "zoo.model.version": model.version}


def _epoch(moment: float) -> int:
    """Nanoseconds since 1970 of a moment by `time.monotonic`."""
    return time_ns() - round(1e9 * (monotonic() - moment))
