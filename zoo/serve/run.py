"""From files to a server that answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from zoo.errors import ZooError
from zoo.progress import Progress
from zoo.runtime.golden import check_golden
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device
from zoo.runtime.threads import available_threads
from zoo.serve.model import ServedOnnx
from zoo.serve.repository import Loaded, Place, Repository
from zoo.serving.app import App
from zoo.serving.guard import Guard
from zoo.serving.http import Connections, Limits
from zoo.serving.inference import Inference
from zoo.serving.listen import Ending, listen
from zoo.serving.log import AccessLog
from zoo.serving.models import Models, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """Which files to serve, and how."""

    models: tuple[Path, ...]
    """Files, and folders of them."""
    host: str = "127.0.0.1"
    port: int = 8000
    device: Device = "auto"
    threads: int | None = None
    max_batch: int = 32
    """Rows of requests that may be computed together, where that is measured to help."""
    max_queue: int = 256
    """Rows that may wait before each model."""
    timeout: float = 30.0
    """Seconds after which a client is told that there is no answer in time; 0 is never."""
    poll: float = 2.0
    """Seconds between two looks for replaced files; 0 is never."""
    grpc_port: int | None = None
    """Of the gRPC form of the protocol; None is off."""
    api_keys: tuple[str, ...] = ()
    """Without one of them nothing but the health of the server is told; where there are none, all is."""
    tls: ssl.SSLContext | None = None
    grpc_tls: Mapping[str, bytes | None] | None = None
    """The same for gRPC, which reads certificates itself: the fields of `zoo.serving.grpc.Pem`."""
    access_log: bool = False
    limits: Limits = field(default_factory=Limits)
    ending: Ending = field(default_factory=Ending)


def load_model(place: Place, request: ServeRequest, progress: Progress | None = None) -> ServedOnnx:
    """A model, loaded and checked against the answers its manifest expects.

    `progress` is told where tuned settings beside it are not used. Raises ModelError for a file that does not load or
    answers otherwise.
    """
    model = OnnxModel(place.path, device=request.device, threads=request.threads, progress=progress)
    if model.manifest is not None:
        check_golden(model)
    return ServedOnnx(model, name=place.name, version=str(place.version))


def serve(
    request: ServeRequest, ready: Callable[[str, list[str], str | None], None], *, progress: Progress | None = None
) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what is under way. `ready` gets the URL,
    the names of the models and the address of gRPC, where it is on, once it answers.

    Raises ZooError where the port cannot be had, and the errors of `Repository.load_all`.
    """

    def load(place: Place) -> Loaded:
        model = load_model(place, request, progress)
        return model, model.pace(request.max_batch)

    repository = Repository(request.models, load)
    listener = _bind(request.host, request.port)
    try:
        loaded = repository.load_all()

        def announce(grpc_port: int | None) -> None:
            host = f"[{request.host}]" if ":" in request.host else request.host
            scheme = "https" if request.tls else "http"
            names = sorted({model.name for model, _ in loaded})
            ready(
                f"{scheme}://{host}:{listener.getsockname()[1]}",
                names,
                None if grpc_port is None else f"{host}:{grpc_port}",
            )

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(request, repository, loaded, listener, announce))
    finally:
        listener.close()


async def _serve(
    request: ServeRequest,
    repository: Repository,
    loaded: list[Loaded],
    listener: socket.socket,
    announce: Callable[[int | None], None],
) -> None:
    models = Models()

    def put(found: Loaded) -> None:
        models.put(Served(*found, max_queue=request.max_queue))

    for each in loaded:
        put(each)
    inference = Inference(timeout=request.timeout or None, workers=request.threads or available_threads())
    app = App(models, inference, max_body=request.limits.body)
    refuse = Guard(request.api_keys) if request.api_keys else None
    finished = AccessLog() if request.access_log else None
    connections = Connections(app, limits=request.limits, refuse=refuse, finished=finished)
    app.connections = lambda: len(connections.all)
    beside, grpc_port = None, None
    if request.grpc_port is not None:
        from zoo.serving.grpc import GrpcServer, Pem

        pem = Pem(**request.grpc_tls) if request.grpc_tls else None  # type: ignore[arg-type]
        beside = GrpcServer(app, max_body=request.limits.body, refuse=refuse, finished=finished)
        grpc_port = beside.bind(request.host, request.grpc_port, pem)
        await beside.start()
    watching = None
    if request.poll:
        watching = asyncio.create_task(
            repository.watch(request.poll, put, lambda place: models.remove(place.name, str(place.version)))
        )
    try:
        await listen(
            app,
            connections,
            [listener],
            ready=lambda: announce(grpc_port),
            ending=request.ending,
            tls=request.tls,
            stop_beside=beside.stop if beside is not None else None,
        )
    finally:
        inference.close()
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def _bind(host: str, port: int) -> socket.socket:
    """A socket that has its port, and takes no connections yet: models are loaded before that."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ZooError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port") from None
    return listener


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it exists: it takes less time of each request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
