"""The gRPC form of the protocol, and grpc.health.v1, in the loop of the HTTP server and with the same queues."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.json_format import ParseDict

from zoo import __version__
from zoo.errors import ZooError
from zoo.serving.app import App
from zoo.serving.grpc_calls import Calls, Context, Unary, parse, serialize
from zoo.serving.grpc_infer import read_request, write_response
from zoo.serving.grpc_messages import message
from zoo.serving.grpc_stream import InferStreams
from zoo.serving.http import Finished, Refuse
from zoo.serving.protocol import EXTENSIONS, model_config, model_metadata
from zoo.serving.tensors import ProtocolError

if TYPE_CHECKING:
    from zoo.serving.tracing import Tracing

_INFERENCE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_WATCH_SECONDS = 1.0


class Pem(Protocol):
    """Files (PEM) of TLS."""

    @property
    def certificate(self) -> Path:
        """The chain of certificates."""
        ...

    @property
    def key(self) -> Path | None:
        """The private key; None where it is with the chain."""
        ...

    @property
    def client_ca(self) -> Path | None:
        """Where given, only clients with a certificate of these are let in."""
        ...


class GrpcServer:
    """A port beside the HTTP one."""

    def __init__(
        self,
        app: App,
        *,
        max_body: int,
        shared: bool,
        refuse: Refuse | None,
        finished: Finished | None,
        tracing: Tracing | None = None,
    ) -> None:
        """`refuse` and `finished` as `zoo.serving.http.Connections` has them; `shared`: other processes take the same
        port."""
        self._app = app
        self._stopping = asyncio.Event()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared)),
            ]
        )
        methods: dict[str, Unary] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        calls = Calls(refuse=refuse, finished=finished, tracing=tracing)
        for name, method in methods.items():
            # What an orchestrator asks, which has no key.
            is_open = name in ("ServerLive", "ServerReady")
            calls.unary(f"/{_INFERENCE}/{name}", f"inference.{name}Request", method, needs_key=not is_open)
        calls.stream(f"/{_INFERENCE}/ModelStreamInfer", InferStreams(self._infer, self._stopping))
        calls.unary(f"/{_HEALTH}/Check", "grpc.health.v1.HealthCheckRequest", self._check, needs_key=False)
        calls.stream(f"/{_HEALTH}/Watch", self._watch, needs_key=False)
        self._server.add_generic_rpc_handlers((calls,))

    def bind(self, host: str, port: int, tls: Pem | None) -> int:
        """Takes the port, any free one for 0, and gives it. Raises ZooError where it cannot be had."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                return int(self._server.add_insecure_port(address))
            credentials = grpc.ssl_server_credentials(
                [((tls.key or tls.certificate).read_bytes(), tls.certificate.read_bytes())],
                root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None,
                require_client_auth=tls.client_ca is not None,
            )
            return int(self._server.add_secure_port(address, credentials))
        except RuntimeError:
            raise ZooError(f"cannot listen on {address}; give another --grpc-port") from None

    async def start(self) -> None:
        """Takes requests from now on."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Takes no new requests; those under way have so long."""
        self._stopping.set()
        await self._server.stop(seconds)

    async def _live(self, _asked: Any, _context: Context) -> Any:
        return message("inference.ServerLiveResponse")(live=True)

    async def _ready(self, _asked: Any, _context: Context) -> Any:
        return message("inference.ServerReadyResponse")(ready=self._app.ready)

    async def _model_ready(self, asked: Any, _context: Context) -> Any:
        try:
            self._app.models.find(asked.name, asked.version or None)
        except ProtocolError:
            return message("inference.ModelReadyResponse")(ready=False)  # as Triton does
        return message("inference.ModelReadyResponse")(ready=True)

    async def _metadata(self, _asked: Any, _context: Context) -> Any:
        return message("inference.ServerMetadataResponse")(name="zoo", version=__version__, extensions=EXTENSIONS)

    async def _model_metadata(self, asked: Any, _context: Context) -> Any:
        model = self._app.models.find(asked.name, asked.version or None).model
        value = model_metadata(model, self._app.models.versions(asked.name))
        value.pop("properties", None)  # which Triton's message does not have
        return _from_dict("inference.ModelMetadataResponse", value)

    async def _config(self, asked: Any, _context: Context) -> Any:
        served = self._app.models.find(asked.name, asked.version or None)
        config = model_config(served.model, served.pace.max_batch)
        return _from_dict("inference.ModelConfigResponse", {"config": config})

    async def _statistics(self, asked: Any, _context: Context) -> Any:
        models = self._app.models
        found = [models.find(asked.name, asked.version or None)] if asked.name else list(models)
        stats = [models.metrics(each).to_json() for each in found]
        return _from_dict("inference.ModelStatisticsResponse", {"model_stats": stats})

    async def _index(self, asked: Any, _context: Context) -> Any:
        found = await self._app.repository.index(ready=asked.ready)
        return _from_dict("inference.RepositoryIndexResponse", {"models": found})

    async def _load(self, asked: Any, _context: Context) -> Any:
        await self._app.repository.load(asked.model_name, asked.parameters)
        return message("inference.RepositoryModelLoadResponse")()

    async def _unload(self, asked: Any, _context: Context) -> Any:
        await self._app.repository.unload(asked.model_name)
        return message("inference.RepositoryModelUnloadResponse")()

    async def _infer(self, asked: Any, context: Context) -> Any:
        received = monotonic()
        served = self._app.models.find(asked.model_name, asked.model_version or None)
        try:
            self._app.inference.check(served, received)
            request = read_request(served.model, asked)
            left = context.time_remaining()
            request.head.timeout = min(request.head.timeout or inf, inf if left is None else left)
            try:
                answers = await self._app.inference.ask(served, request, received)
            except ProtocolError as error:
                if error.status == 429 and monotonic() >= received + request.head.timeout:
                    raise ProtocolError("no answer in time", 504) from None
                raise
            answer = write_response(served.model, request, answers)
        except ProtocolError as error:
            served.metrics.answered(error.status, monotonic() - received)
            raise
        served.metrics.answered(200, monotonic() - received)
        return answer

    async def _check(self, asked: Any, _context: Context) -> Any:
        status = self._status(asked.service)
        if status == "SERVICE_UNKNOWN":
            raise ProtocolError(f"unknown service: {asked.service!r:.80}", 404)
        return _from_dict("grpc.health.v1.HealthCheckResponse", {"status": status})

    async def _watch(self, context: Context) -> None:
        body = await context.read()
        if body is grpc.aio.EOF:
            return
        asked, told = parse("grpc.health.v1.HealthCheckRequest", body), ""
        while True:
            status = self._status(asked.service)
            if status != told:
                told = status
                await context.write(serialize(_from_dict("grpc.health.v1.HealthCheckResponse", {"status": status})))
            if self._stopping.is_set():
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), _WATCH_SECONDS)
            except TimeoutError:
                continue

    def _status(self, service: str) -> str:
        if service not in ("", _INFERENCE):
            return "SERVICE_UNKNOWN"
        return "SERVING" if self._app.ready and not self._stopping.is_set() else "NOT_SERVING"


def _from_dict(name: str, value: Mapping[str, Any]) -> Any:
    return ParseDict(value, message(name)())
