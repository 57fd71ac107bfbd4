"""`zoo serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, Threads
from zoo_cli.render import Output


def add_to(app: typer.Typer) -> None:
    """Adds the command `serve`."""
    command(app, "serve")(_serve)


def _serve(
    out: Output,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="ONNX files; a model is named by its stem.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8000,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve ONNX models over the Open Inference Protocol v2 (REST) until Ctrl-C."""
    import json
    import sys

    from zoo.serve import ServeRequest, serve

    request = ServeRequest(models=tuple(models), host=host, port=port, device=device, threads=threads)

    def ready(url: str) -> None:
        if out.as_json:
            sys.stdout.write(json.dumps({"url": url, "models": [model.stem for model in models]}) + "\n")
            sys.stdout.flush()
            return
        out.remark(f"serving on {url}   (stop with Ctrl-C)")
        for model in models:
            out.remark(f"  {url}/v2/models/{model.stem}/infer")

    serve(request, ready, progress=out.progress)
