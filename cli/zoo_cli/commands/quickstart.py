"""`zoo quickstart`."""

from __future__ import annotations

import typer

from zoo_cli.command import command
from zoo_cli.render import Output


def add_to(app: typer.Typer) -> None:
    """Adds the command `quickstart`."""
    command(app, "quickstart")(_quickstart)


def _quickstart(out: Output) -> None:
    """The whole way in about a minute."""
