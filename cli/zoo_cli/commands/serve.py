"""`zoo serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_cli.command import command
from zoo_cli.options import Threads
from zoo_cli.render import Output

if TYPE_CHECKING:
    from zoo.serve.request import Tls
    from zoo.serve.settings import ModelSettings


_TABLES = "tables of models"
"""Where the context has them."""


def add_to(app: typer.Typer) -> None:
    """Adds the command `serve`."""
    command(app, "serve", environment="ZOO_SERVE")(_serve)


def _configure(context: typer.Context, path: Path | None) -> Path | None:
    """Makes what the file says the defaults of all other options."""
    import tomllib

    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} ({error}); give a TOML file") from None
    context.meta[_TABLES] = found.pop("model", {})
    values = {name.replace("-", "_"): value for name, value in found.items()}
    unknown = sorted(values.keys() - {parameter.name for parameter in context.command.params})
    if unknown:
        raise typer.BadParameter(f"{path} has an unknown option: {unknown[0]!r}; see `zoo serve --help`")
    context.default_map = values
    return path


def _serve(
    out: Output,
    context: typer.Context,
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL", help="ONNX files, named by their stem, and folders of them."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8000,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of gRPC (extra `grpc`); 0 takes any free one.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto: CUDA where a device answers, else the CPU; cuda:1: the second one.")
    ] = "auto",
    cpus: Annotated[
        str | None, typer.Option(metavar="LIST", help="Processors to run on, such as 0-3,8; --workers share them.")
    ] = None,
    threads: Threads = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes behind the same port, each with so many --threads.")
    ] = 1,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Rows computed together at most, where that is measured to help.")
    ] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Rows that may wait before each model; then 429.")] = 256,
    max_delay: Annotated[
        float, typer.Option(min=0, help="Seconds that a request may wait for others to share its call.")
    ] = 0.0,
    memory_budget: Annotated[
        int | None, typer.Option(min=1, help="MB of memory of each process; a model that would take more is refused.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds after which an answer is too late, and refused before; 0: never.")
    ] = 30.0,
    poll: Annotated[
        float, typer.Option(min=0, help="Seconds between looks for new and replaced files; 0: never.")
    ] = 2.0,
    allow_load: Annotated[
        bool, typer.Option(help="Clients may load and unload models (the model repository extension).")
    ] = False,
    canary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VERSION=PERCENT", help="A version that answers a share of the requests."),
    ] = None,
    shadow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VERSION=PERCENT", help="A version that is only asked, too, and compared."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="MB of a request at most.")] = 64,
    max_connections: Annotated[int, typer.Option(min=1, help="Clients at a time.")] = 4096,
    receive_seconds: Annotated[
        float, typer.Option(min=0.1, help="For a client to send a request, and to take its answer.")
    ] = 30.0,
    drain_delay: Annotated[
        float, typer.Option(min=0, help="Seconds from SIGTERM on in which all is answered, but not ready.")
    ] = 0.0,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that requests under way have after that.")] = 30.0,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of keys, one in a line: without one of them only health is told.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Only clients with a certificate of these (PEM).")] = None,
    access_log: Annotated[bool, typer.Option(help="A line of JSON for each request, on standard error.")] = False,
    trace: Annotated[
        bool, typer.Option(help="OpenTelemetry traces (extra `otel`), sent to where OTEL_* variables say.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_configure,
            help="A TOML file of these options, such as max-batch = 8, and of models' own, such as [model.flowers].",
        ),
    ] = None,
) -> None:
    """Serve ONNX models over the Open Inference Protocol v2 (REST, gRPC) until Ctrl-C.

    Options are taken from the command line, else from variables such as ZOO_SERVE_PORT, else from --config.
    """
    del config
    import json
    import sys
    from importlib.util import find_spec

    from zoo.errors import MissingExtraError, UsageError
    from zoo.runtime.cpus import read_cpus
    from zoo.runtime.session import read_device
    from zoo.serve.request import ServeRequest
    from zoo.serve.run import serve
    from zoo.serve.settings import ModelSettings
    from zoo.serving.http import Limits
    from zoo.serving.listen import Ending
    from zoo.serving.traffic import Share

    if grpc_port is not None and not (find_spec("grpc") and find_spec("google.protobuf")):
        raise MissingExtraError("grpcio or protobuf is not installed: --grpc-port needs them; pip install 'zoo[grpc]'")
    if trace and not _has_otel():
        raise MissingExtraError("the OTLP exporter is not installed: --trace needs it; pip install 'zoo[otel]'")
    if grpc_port == 0 and workers > 1:
        raise UsageError("--grpc-port 0 with --workers: each process would take another port; give a number")
    provider, device_id = read_device(device)
    settings = ModelSettings(threads=threads, max_batch=max_batch, max_queue=max_queue, max_delay=max_delay)
    request = ServeRequest(
        models=tuple(models),
        host=host,
        port=port,
        grpc_port=grpc_port,
        device=provider,
        device_id=device_id,
        cpus=() if cpus is None else read_cpus(cpus, "--cpus"),
        workers=workers,
        settings=settings,
        own_settings=_own_settings(context.meta.get(_TABLES, {}), settings),
        memory_budget=None if memory_budget is None else memory_budget * 2**20,
        timeout=timeout,
        canaries=Share.parse_all(canary or [], "--canary"),
        shadows=Share.parse_all(shadow or [], "--shadow"),
        poll=poll,
        allow_load=allow_load,
        api_keys=_read_keys(api_keys),
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        access_log=access_log,
        trace=trace,
        limits=Limits(body=max_body * 2**20, connections=max_connections, receive_seconds=receive_seconds),
        ending=Ending(delay=drain_delay, drain=drain),
    )

    def ready(url: str, names: list[str], grpc: str | None) -> None:
        if out.as_json:
            value = {"url": url, "models": names, **({"grpc": grpc} if grpc else {})}
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()
            return
        out.remark(f"serving on {url}   (stop with Ctrl-C)")
        for name in names:
            out.remark(f"  {url}/v2/models/{name}/infer")
        if grpc:
            out.remark(f"gRPC on {grpc}")

    serve(request, ready, progress=out.progress)


def _has_otel() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even the packages it would be in
        return False


def _own_settings(tables: object, settings: ModelSettings) -> dict[str, ModelSettings]:
    from zoo.errors import UsageError

    if not isinstance(tables, dict):
        raise UsageError(f"model = {tables!r:.40} in --config; give tables such as [model.flowers]")
    return {name: settings.with_table(table, name) for name, table in tables.items()}


def _read_keys(path: Path | None) -> tuple[str, ...]:
    from zoo.errors import UsageError

    if path is None:
        return ()
    try:
        keys = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"API keys cannot be read: {path} ({error}); give a text file, one key in a line") from None
    if not keys:
        raise UsageError(f"no API keys in {path}; put one in a line, or leave --api-keys out")
    return keys


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    from zoo.errors import UsageError
    from zoo.serve.request import Tls

    if certificate is not None:
        return Tls(certificate=certificate, key=key, client_ca=client_ca)
    if key is not None or client_ca is not None:
        raise UsageError("--tls-key and --tls-client-ca need --tls-cert; give it, too")
    return None
