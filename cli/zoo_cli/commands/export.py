"""`zoo export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, Threads
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder, catalogue


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
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN", help="One more finished run in the same file, and the name of its outputs."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8", "auto"],
        typer.Option(help="Other than fp32 only where measured to be faster here and as good; auto tries all."),
    ] = "fp32",
    max_loss: Annotated[
        float, typer.Option(min=0, max=100, help="Points of accuracy that another precision may lose.")
    ] = 0.5,
    data: Annotated[
        str | None, typer.Option(help="Images to measure another precision with (default: those of the run).")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Export a run as one ONNX file: image pixels in, probabilities out, verified against the trained model."""
    from zoo.data.splits import open_dataset
    from zoo.export.heads import parse_heads
    from zoo.export.outputs import Outputs
    from zoo.export.run import ExportOptions, export

    options = ExportOptions(
        outputs=Outputs.parse(outputs),
        heads=parse_heads(head or []),
        precision=precision,
        max_loss=max_loss / 100,
        device=device,
        threads=threads,
    )
    images = open_dataset(data, cache=cache_folder(), progress=out.progress) if data else None
    result = export(run, target, catalogue=catalogue(), progress=out.progress, options=options, data=images)

    def words() -> None:
        for tried in result["variants"]:
            out.line(_words(tried))
        parity = result["parity"]
        out.line(
            f"{result['model']}: {result['bytes'] / 1e6:.1f} MB, {result['precision']}; in fp32 the largest difference "
            f"from the trained model is {parity['max_abs']:.1e} over {parity['images']} images at batches "
            f"{parity['batches']}"
        )
        for name, facts in result["heads"].items():
            out.line(
                f"head {name}: shares {percent(facts['shared'])} of its weights; largest difference from its trained "
                f"model {facts['parity']['max_abs']:.1e}"
            )
        model = shlex.quote(result["model"])
        out.line(f"next: zoo predict {model} IMAGE   zoo bench {model}   zoo serve {model}")

    out.result(result, words)


def _words(tried: dict[str, Any]) -> str:
    """What was measured of another precision."""
    facts = [f"{gain:.2f} times as fast at batch {batch}" for batch, gain in tried["faster"].items()]
    if tried["agreement"] is not None:
        low, high = (100 * bound for bound in tried["loss95"])
        facts.append(f"the same label for {percent(tried['agreement'])} of {tried['images']} validation images")
        facts.append(f"{100 * tried['loss']:.1f} points lost (95 % interval {low:.1f} to {high:.1f})")
    if tried["layers_kept"]:
        facts.append(f"its first layers in fp32: {tried['layers_kept']}")
    verdict = f"not kept, {tried['refused']}" if tried["refused"] else "kept"
    return f"{tried['precision']}: {verdict} ({'; '.join(facts)})"
