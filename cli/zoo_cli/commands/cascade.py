"""`zoo cascade gate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, OnBadSample, Threads
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder, catalogue


def add_to(app: typer.Typer) -> None:
    """Adds the group `cascade`."""
    group = typer.Typer(name="cascade", help="Several finished runs as one model.", no_args_is_help=True)
    command(group, "gate")(_gate)
    app.add_typer(group)


def _gate(
    out: Output,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Finished runs, the cheapest first.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for finetune.")],
    folder: Annotated[Path, typer.Option("--out", help="The new run folder.")],
    max_loss: Annotated[
        float, typer.Option(help="Points of accuracy that may be lost against the last run alone.")
    ] = 1.0,
    split: Annotated[
        Literal["val", "test", "all"],
        typer.Option(help="The images that choose (val: all but the test split), without those trained on."),
    ] = "val",
    seed: Annotated[
        int | None, typer.Option(help="Splits data without splits of its own (default: as the first run did).")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    on_bad_sample: OnBadSample = "fail",
) -> None:
    """Ask a small model first, and a bigger one only where it is not sure; with a promise about what that costs."""
    from zoo.cascade.gate import GateRequest, gate

    request = GateRequest(
        runs=tuple(runs),
        data=data,
        max_loss=max_loss,
        split=split,
        seed=seed,
        device=device,
        threads=threads,
        on_bad_sample=on_bad_sample,
    )
    result = gate(request, folder, catalogue=catalogue(), cache=cache_folder(), progress=out.progress)

    def words() -> None:
        stops = result["test_exits"] or result["val_exits"]
        rows: list[list[object]] = [
            [member["run"], member["backbone"], *map(percent, (member["val_accuracy"], member["test_accuracy"], share))]
            for member, share in zip(result["members"], stops, strict=True)
        ]
        rows.append(["all", "", percent(result["val_accuracy"]), percent(result["test_accuracy"]), ""])
        out.table(["run", "backbone", "choosing images", "test", "images that stop here"], rows)
        out.line(
            f"an answer stands from {percent(result['threshold'])} confidence on; at most {result['loss_bound']:.1f} "
            f"points of accuracy are lost (with 95 % confidence, by {result['images']} images), for "
            f"{percent(result['work'])} of the work of {result['members'][-1]['run']}"
        )
        run = shlex.quote(result["run"])
        out.line(f"run: {result['run']}   next: zoo export {run}")

    out.result(result, words)
