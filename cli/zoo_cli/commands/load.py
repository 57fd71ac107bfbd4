"""`zoo load`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zoo_cli.command import command
from zoo_cli.options import whole_numbers
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder


def add_to(app: typer.Typer) -> None:
    """Adds the command `load`."""
    command(app, "load")(_load)


def _load(
    out: Output,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, such as http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option(help="Name of the model; only a `zoo serve` of one tells it.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA|IMAGE", help="Sends these image files; else tensors. May be repeated."),
    ] = None,
    connections: Annotated[str, typer.Option(help="Clients at a time, each measured on its own.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per measurement, after warming up.")] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Requests a second on schedule; else each client waits for its answer."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that an answer may take.")] = 60.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="ZOO_API_KEY", help="The server's API key; best not typed where it is kept.")
    ] = None,
) -> None:
    """Measure a running server of the Open Inference Protocol: latency, throughput, errors."""
    from zoo.client import Client
    from zoo.load.content import image_files
    from zoo.load.run import LoadRequest, load

    request = LoadRequest(
        connections=tuple(whole_numbers("--connections", connections)), seconds=seconds, rate=rate, timeout=timeout
    )
    images = image_files(data or (), cache=cache_folder(), progress=out.progress)
    with Client(url, api_key=api_key, timeout=timeout) as client:
        result = load(client, model=model, images=images, request=request, progress=out.progress)
    if not result["rows"]:
        raise KeyboardInterrupt("interrupted before anything was measured")
    out.result(result, lambda: _words(out, result))


def _words(out: Output, result: dict[str, Any]) -> None:
    headers = [
        "connections",
        "answers/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "max ms",
        "requests",
        "failed",
        "429",
        "429: p99 ms",
    ]
    cells = [
        [
            row["connections"],
            *(row[name] for name in ("per_s", "p50_ms", "p95_ms", "p99_ms", "max_ms", "requests")),
            ", ".join(f"{count} {name}" for name, count in row["failures"].items()) or "-",
            percent(row["refused_share"]),
            row["refused_p99_ms"],
            percent(row["generator_share"]),
        ]
        for row in result["rows"]
    ]
    out.table([*headers, "own load of a core"], cells)
    for warning in result["warnings"]:
        out.line(f"beware: {warning}")
    if result["interrupted"]:
        out.line("interrupted: the last row is shorter than the others, or missing")
