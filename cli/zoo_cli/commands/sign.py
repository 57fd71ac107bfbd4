"""`zoo sign`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.render import Output


def add_to(app: typer.Typer) -> None:
    """Adds the command `sign`."""
    command(app, "sign")(_sign)


def _sign(
    out: Output,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An exported model.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Your private elliptic-curve key (PEM).")],
) -> None:
    """Sign a model with your key: writes MODEL.sig beside it, which `zoo verify --key` checks."""
    from zoo.sign import sign

    signature = sign(model, key)
    result = {"model": str(model), "signature": str(signature)}
    words = f"{signature}; others check it with: zoo verify {shlex.quote(str(model))} --key PUBLIC.pem"
    out.result(result, lambda: out.line(words))
