"""From files to a server that answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import closing
from typing import TYPE_CHECKING, Any

from zoo.errors import ModelError, UsageError, ZooError, did_you_mean
from zoo.progress import Progress
from zoo.runtime.cpus import pin_to
from zoo.runtime.golden import check_golden
from zoo.runtime.model import OnnxModel
from zoo.runtime.threads import available_threads
from zoo.serve.budget import MemoryBudget
from zoo.serve.model import ServedOnnx
from zoo.serve.repository import Place, Repository
from zoo.serve.request import ServeRequest
from zoo.serve.siblings import SharedRepository, Siblings
from zoo.serving.app import App
from zoo.serving.guard import Guard
from zoo.serving.http import Connections
from zoo.serving.inference import Inference
from zoo.serving.listen import HttpServer
from zoo.serving.log import AccessLog
from zoo.serving.loop import new_event_loop
from zoo.serving.models import Models, Served
from zoo.serving.repository import RepositoryControl

if TYPE_CHECKING:
    from zoo.serving.tracing import Tracing


def load_model(place: Place, request: ServeRequest, progress: Progress | None = None) -> ServedOnnx:
    """A model, loaded and checked against the answers its manifest expects.

    `progress` is told where tuned settings beside it are not used. Raises ModelError for a file that does not load or
    answers otherwise.
    """
    settings = request.settings_of(place.name)
    model = OnnxModel(
        place.path, device=request.device, device_id=request.device_id, threads=settings.threads, progress=progress
    )
    if model.manifest is not None:
        check_golden(model)
    return ServedOnnx(model, name=place.name, version=str(place.version), max_batch=settings.max_batch)


Ready = Callable[[list[str], int | None], None]
"""Is told the names of the models and the port of gRPC, where it is on, once they answer."""


def serve(
    request: ServeRequest, ready: Callable[[str, list[str], str | None], None], *, progress: Progress | None = None
) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what is under way. `ready` gets the URL, the names of the models
    and the address of gRPC, where it is on, once they answer.

    Raises ZooError where the port cannot be had, UsageError for certificates that cannot be used, and the errors of
    `pin_to` and `Repository.load_all`.
    """
    if request.cpus:
        pin_to(request.cpus)
    if request.tls is not None:
        request.tls.context()
    with closing(_bind(request.host, request.port)) as listener:
        host = f"[{request.host}]" if ":" in request.host else request.host
        url = f"{'https' if request.tls else 'http'}://{host}:{listener.getsockname()[1]}"

        def announce(names: list[str], grpc_port: int | None) -> None:
            ready(url, names, None if grpc_port is None else f"{host}:{grpc_port}")

        if request.workers > 1:
            from zoo.serve.workers import Supervisor

            Supervisor(listener, request, progress).run(announce)
        else:
            serve_on(listener, request, announce, progress=progress)


def serve_on(
    listener: socket.socket,
    request: ServeRequest,
    ready: Ready,
    *,
    progress: Progress | None = None,
    siblings: Siblings | None = None,
) -> None:
    """Serves in this process on a socket that is bound. `siblings` are others that do the same.

    Raises UsageError for settings of a model that is not there, and the errors of `Repository.load_all`.
    """
    models = Models(canaries=request.canaries, shadows=request.shadows)
    tracing = _tracing() if request.trace else None
    budget = MemoryBudget(request.memory_budget) if request.memory_budget is not None else None

    def load(place: Place) -> ServedOnnx:
        if budget is not None:
            budget.check_file(place.path)
        model = load_model(place, request, progress)
        excess = budget.excess(place.path) if budget is not None else None
        if excess is not None:
            del model  # which the traceback of the error would keep
            raise ModelError(excess)
        return model

    def put(model: ServedOnnx) -> None:
        settings = request.settings_of(model.name)
        models.put(
            Served(model, model.pace, max_queue=settings.max_queue, max_delay=settings.max_delay, tracing=tracing)
        )

    def remove(place: Place) -> Awaitable[None]:
        return models.remove(place.name, str(place.version))

    repository = Repository(
        request.models,
        load=load,
        put=put,
        remove=remove,
        is_required=lambda name: request.settings_of(name).required,
        unloaded=siblings.unloaded if siblings is not None else (),
    )
    loaded = repository.load_all()
    _check_named(request, repository.required)

    async def run() -> None:
        for each in loaded:
            put(each)
        await _serve(
            listener, request, models=models, repository=repository, ready=ready, siblings=siblings, tracing=tracing
        )

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run())
    finally:
        if tracing is not None:
            tracing.close()


async def _serve(
    listener: socket.socket,
    request: ServeRequest,
    *,
    models: Models,
    repository: Repository,
    ready: Ready,
    siblings: Siblings | None,
    tracing: Tracing | None,
) -> None:
    inference = Inference(
        models, timeout=request.timeout or None, workers=request.settings.threads or available_threads()
    )
    shared = repository if siblings is None else SharedRepository(repository, siblings)
    control = RepositoryControl(shared, may_load=request.allow_load)
    app = App(models, inference, control, required=repository.required, max_body=request.limits.body)
    refuse = Guard(request.api_keys) if request.api_keys else None
    finished = AccessLog() if request.access_log else None
    handler = app if tracing is None else tracing.of_http(app)
    connections = Connections(handler, limits=request.limits, refuse=refuse, finished=finished)
    app.connections = lambda: len(connections.all)
    door, grpc_port = None, None
    if request.grpc_port is not None:
        from zoo.serving.grpc import GrpcServer

        door = GrpcServer(
            app,
            max_body=request.limits.body,
            shared=siblings is not None,
            refuse=refuse,
            finished=finished,
            tracing=tracing,
        )
        grpc_port = door.bind(request.host, request.grpc_port, request.tls)
    tls = request.tls.context() if request.tls else None
    server = HttpServer(app, connections, listener, tls=tls, door=door)
    beside: list[Coroutine[Any, Any, None]] = []
    if request.poll:
        beside.append(repository.watch(request.poll))
    if siblings is not None:
        beside.append(siblings.exchange(models, repository, server.stop))
    names = sorted({served.model.name for served in models})
    try:
        await server.run(lambda: ready(names, grpc_port), request.ending, beside)
    finally:
        inference.close()


def _check_named(request: ServeRequest, there: Collection[str]) -> None:
    for name, settings in request.own_settings.items():
        if settings.required and name not in there:
            hint = did_you_mean(name, there) or "correct the name"
            raise UsageError(f"[model.{name}] is none of the models: {name!r}; {hint}, or say required = false")


def _tracing() -> Tracing:
    from zoo.serving.tracing import Tracing

    return Tracing()


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
