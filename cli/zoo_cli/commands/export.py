"""`zoo export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.render import Output
from zoo_cli.settings import catalogue


def add_to(app: typer.Typer) -> None:
    """Adds the command `export`."""
    command(app, "export")(_export)


def _export(
    out: Output,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    target: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")] = Path("model.onnx"),
    outputs: Annotated[
        str, typer.Option(help="What it gives, any of: probabilities (always), label, topK such as top5, embedding.")
    ] = "probabilities",
) -> None:
    """Export a run as one ONNX file: image pixels in, probabilities out, verified against the trained model."""
    from zoo.export.outputs import Outputs
    from zoo.export.run import export

    wanted = Outputs.parse(outputs)
    result = export(run, target, catalogue=catalogue(), progress=out.progress, outputs=wanted)

    def words() -> None:
        parity = result["parity"]
        out.line(
            f"{result['model']}: {result['bytes'] / 1e6:.1f} MB, {result['precision']}; largest difference from the "
            f"trained model {parity['max_abs']:.1e} over {parity['images']} images at batches {parity['batches']}"
        )
        model = shlex.quote(result["model"])
        out.line(f"next: zoo predict {model} IMAGE   zoo bench {model}   zoo serve {model}")

    out.result(result, words)
