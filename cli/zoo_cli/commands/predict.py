"""`zoo predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_cli.command import command
from zoo_cli.options import Device, Threads
from zoo_cli.render import Output, percent


def add_to(app: typer.Typer) -> None:
    """Adds the command `predict`."""
    command(app, "predict")(_predict)


def _predict(
    out: Output,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An exported model.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many labels per image.")] = 3,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Label image files with an exported model."""
    from zoo.predict import predict

    answers = predict(model, files, top=top, device=device, threads=threads, progress=out.progress)
    heads = list(answers[0]["heads"])
    rows = [(answer["file"], _words(answer), *(_words(answer["heads"][head]) for head in heads)) for answer in answers]
    out.result(answers, lambda: out.table(["file", "labels", *heads], rows))


def _words(answer: dict[str, Any]) -> str:
    return ", ".join(f"{entry['label']} {percent(entry['probability'])}" for entry in answer["top"])
