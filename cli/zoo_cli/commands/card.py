"""`zoo card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.render import Output


def add_to(app: typer.Typer) -> None:
    """Adds the command `card`."""
    command(app, "card")(_card)


def _card(
    out: Output,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An exported model.")],
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write (default: beside the model).")
    ] = None,
) -> None:
    """Write a model card (Markdown) and a bill of materials (CycloneDX) from what a model says of itself."""
    from zoo.report.card import write_card

    result = write_card(model, folder or model.parent)
    out.result(result, lambda: out.line(f"{result['card']}, {result['sbom']}"))
