"""Spans as a collector of OpenTelemetry receives them."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Start

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TENSORS = (
    b'{"inputs": [{"name": "a", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]},'
    b'{"name": "b", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}'
)
_TRACE, _PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_SERVER = 2


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]


@dataclass
class _Collector:
    """Keeps what it is sent over OTLP/HTTP."""

    url: str = ""
    services: set[str] = field(default_factory=set)
    spans: list[_Span] = field(default_factory=list)

    def wait(self, count: int) -> list[_Span]:
        """So many spans, in the order of their beginnings."""
        deadline = time.monotonic() + 30
        while len(self.spans) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(self.spans) == count, self.spans
        found = sorted(self.spans, key=lambda span: span.start)
        self.spans.clear()
        return found

    def take(self, body: bytes) -> None:
        """Reads one request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                self.spans += [_read(span) for span in scope.spans]


def _read(span: Any) -> _Span:
    values = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    return _Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        values,
    )


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Collector]:
    """It listens where the variables of OpenTelemetry say."""
    found = _Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            found.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found
        server.shutdown()
        thread.join()


def test_a_request_has_a_span_with_queue_and_compute(start: Start, tensor_model: Path, collector: _Collector) -> None:
    server = start(tensor_model, "--trace")
    headers = {"traceparent": f"00-{_TRACE}-{_PARENT}-01"}
    before = time.time_ns()
    assert server.ask("POST", "/v2/models/plain/versions/1/infer", TENSORS, **headers)[0] == 200
    request, queue, compute = collector.wait(3)
    assert collector.services == {"zoo"}
    assert (request.name, request.kind) == ("POST /v2/models/{model}/versions/{version}/infer", _SERVER)
    assert (request.trace, request.parent) == (_TRACE, _PARENT)
    assert request.attributes == {
        "http.request.method": "POST",
        "url.path": "/v2/models/plain/versions/1/infer",
        "http.route": "/v2/models/{model}/versions/{version}/infer",
        "http.response.status_code": 200,
        "zoo.model.name": "plain",
        "zoo.model.version": "1",
    }
    assert [span.name for span in (queue, compute)] == ["queue", "compute"]
    assert {(span.trace, span.parent) for span in (queue, compute)} == {(_TRACE, request.id)}
    assert compute.attributes == {"zoo.model.name": "plain", "zoo.model.version": "1", "zoo.batch.size": 2}
    assert before <= request.start <= queue.start <= queue.end <= compute.end <= request.end <= time.time_ns()
    assert not request.failed
    # What is refused has a span and its status; what only looks has none; a client without a trace begins one.
    assert server.ask("POST", "/v2/models/other/infer", TENSORS)[0] == 404
    assert server.get("/v2/health/ready")["ready"]
    [refused] = collector.wait(1)
    assert (refused.parent, refused.failed, refused.attributes["http.response.status_code"]) == ("", False, 404)
    # Spans that were not yet sent are sent at the end.
    server.ask("POST", "/v2/models/plain/infer", TENSORS)
    server.stop()
    assert len(collector.wait(3)) == 3


def test_each_image_of_a_request_waits_and_is_computed(
    start: Start, model: Path, dataset: Path, collector: _Collector
) -> None:
    server = start(model, "--trace")
    files = sorted((dataset / "test").rglob("*.jpg"))[:2]
    body = json.dumps({"images": [base64.b64encode(file.read_bytes()).decode() for file in files]}).encode()
    status, answer = server.ask("POST", "/predict", body, Content_Type="application/json")
    assert (status, len(answer["predictions"])) == (200, 2)
    request, *children = collector.wait(5)
    assert request.name == "POST /predict"
    assert sorted(span.name for span in children) == ["compute", "compute", "queue", "queue"]
    assert {span.parent for span in children} == {request.id}


def test_calls_of_grpc(
    start: Start, tensor_model: Path, collector: _Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "flowers")
    server = start(tensor_model, "--trace", "--grpc-port", "0")
    tensors = []
    for name in ("a", "b"):
        tensors.append(triton.InferInput(name, [1, 3], "FP32"))
        tensors[-1].set_data_from_numpy(np.ones((1, 3), np.float32))
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        client.infer("plain", tensors, headers={"traceparent": f"00-{_TRACE}-{_PARENT}-01"})
        with pytest.raises(triton.InferenceServerException):
            client.infer("other", tensors)
    request, queue, compute, refused = collector.wait(4)
    assert collector.services == {"flowers"}
    assert (request.name, request.parent) == ("inference.GRPCInferenceService/ModelInfer", _PARENT)
    assert (queue.parent, compute.parent) == (request.id, request.id)
    assert request.attributes["rpc.grpc.status_code"] == 0
    assert request.attributes["zoo.model.name"] == "plain"
    assert refused.attributes["rpc.grpc.status_code"] == 5  # NOT_FOUND


def test_without_it_nothing_of_it_is_imported(tensor_model: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path; from zoo.serve.request import ServeRequest;"
        "from zoo.serve.run import serve; import os, signal;"
        "serve(ServeRequest(models=(Path(sys.argv[1]),), device='cpu', port=0),"
        "lambda *_: os.kill(os.getpid(), signal.SIGTERM));"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tensor_model)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
