"""`zoo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, OnBadSample, Threads
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder, catalogue


def add_to(app: typer.Typer) -> None:
    """Adds the command `evaluate`."""
    command(app, "evaluate")(_evaluate)


def _evaluate(
    out: Output,
    target: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A finished run or an exported model.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled images, as for finetune.")],
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which further head of an exported model (default: its own).")
    ] = None,
    split: Annotated[Literal["test", "val", "train", "all"], typer.Option(help="Which images.")] = "test",
    seed: Annotated[
        int | None, typer.Option(help="Splits data without a test split of its own (default: as the training did).")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    on_bad_sample: OnBadSample = "fail",
) -> None:
    """Measure accuracy, calibration, and precision and recall per class on labelled images."""
    from zoo.evaluate import evaluate

    result = evaluate(
        target,
        data,
        split=split,
        catalogue=catalogue(),
        cache=cache_folder(),
        progress=out.progress,
        seed=seed,
        device=device,
        threads=threads,
        on_bad_sample=on_bad_sample,
        head=head,
    )

    def words() -> None:
        low, high = result["interval95"]
        out.line(
            f"accuracy {percent(result['accuracy'])} on {result['n']} images (95 % interval {percent(low)} to "
            f"{percent(high)}), balanced {percent(result['balanced_accuracy'])}, calibration error {result['ece']:.3f} "
            f"({result['ece_by_chance']:.3f} by chance)"
        )
        rows = [
            (name, row["n"], percent(row["precision"]), percent(row["recall"]))
            for name, row in result["per_class"].items()
        ]
        out.table(["class", "images", "precision", "recall"], rows)
        if result["seen_in_training"]:
            out.line(f"beware: {result['seen_in_training']} of these images were trained on")

    out.result(result, words)
