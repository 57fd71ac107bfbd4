"""`zoo report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_cli.command import command
from zoo_cli.render import Output, percent


def add_to(app: typer.Typer) -> None:
    """Adds the command `report`."""
    command(app, "report")(_report)


def _report(
    out: Output,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    target: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file to write (default: RUN/report.html).")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run: how good, how it learnt, what it mistakes, how to repeat it."""
    from zoo.report.run import report

    result = report(run, target)

    def words() -> None:
        low, high = result["interval95"]
        out.line(
            f"{result['split']} accuracy {percent(result['accuracy'])} on {result['n']} images (95 % interval "
            f"{percent(low)} to {percent(high)}), calibration error {result['ece']:.3f} "
            f"({result['ece_by_chance']:.3f} by chance)"
        )
        out.line(f"report: {result['report']}")

    out.result(result, words)
