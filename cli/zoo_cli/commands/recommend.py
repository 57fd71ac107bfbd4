"""`zoo recommend DATA`."""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, OnBadSample, Strategy, Threads
from zoo_cli.render import Output, percent
from zoo_cli.settings import environment


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "recommend")(_recommend)


def _recommend(
    out: Output,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a .zip, a .csv, or builtin:digits.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write recommendation.json and report.html.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare only this one, and others given so; weights are fetched."),
    ] = None,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", min=0, help="Only backbones that take so long for an image.")
    ] = None,
    max_size: Annotated[
        float | None, typer.Option(metavar="MB", min=0, help="Only backbones with so large parameters.")
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(metavar="MIN", min=0, help="Only trainings that take so many minutes here.")
    ] = None,
    strategy: Annotated[Strategy, typer.Option(help="A strategy of your own: only the backbone is chosen.")] = "auto",
    input_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Another square input size.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes of a whole training.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Use only so many training images per class.")] = None,
    val_share: Annotated[float | None, typer.Option(help="Share of the training images held out.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    on_bad_sample: OnBadSample = "fail",
) -> None:
    """Say which backbone and which strategy suit your data, and why: measured on it, within a budget."""
    from zoo.finetune.request import FinetuneRequest
    from zoo.recommend.candidates import Limits
    from zoo.recommend.run import recommend
    from zoo.report.recommendation import recommendation_page

    asked = FinetuneRequest(
        data=data,
        backbone="auto",
        strategy=strategy,
        input_size=input_size,
        epochs=epochs,
        shots=shots,
        val_share=val_share,
        seed=seed,
        device=device,
        threads=threads,
        on_bad_sample=on_bad_sample,
    )
    seconds = 60 * max_time if max_time is not None else None
    limits = Limits(backbones=tuple(backbone or ()), latency_ms=max_latency, megabytes=max_size, seconds=seconds)
    target = folder or _fresh_folder(data)
    around = environment()
    found = recommend(asked, target, around, out.progress, limits=limits, results=around.catalogue.results)

    page = target / "report.html"
    recommendation_page(found, page)

    def words() -> None:
        out.table(
            ["backbone", "probe", "neighbours", "log evidence", "ms", "MB"],
            [
                (
                    row["backbone"],
                    percent(row["accuracy"]),
                    percent(row["neighbour_accuracy"]),
                    f"{row['log_evidence']:.3f}",
                    f"{row['latency_ms']:.1f}",
                    f"{row['megabytes']:.1f}",
                )
                for row in found["ranking"]
            ],
        )
        for sentence in found["why"]:
            out.line(sentence)
        if found["elsewhere"]:
            out.line(f"not compared, since their weights are not at hand: {', '.join(found['elsewhere'])}")
        out.line(f"report: {page}")
        out.line(f"next: zoo finetune --from {shlex.quote(str(target / 'recommendation.json'))}")

    out.result(found, words)


def _fresh_folder(data: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(data.removeprefix("builtin:")).stem)
    return Path("runs") / f"{name}-recommend-{datetime.now():%Y%m%d-%H%M%S}"
