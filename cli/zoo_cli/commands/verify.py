"""`zoo verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.errors import ModelError
from zoo_cli.command import command
from zoo_cli.render import Output


def add_to(app: typer.Typer) -> None:
    """Adds the command `verify`."""
    command(app, "verify")(_verify)


def _verify(
    out: Output,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Exported models.")],
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where golden answers are computed; auto: on each there is.")
    ] = "auto",
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="The run they should come from.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The public key they should be signed with.")] = None,
) -> None:
    """Check that models are as they were exported, and that they answer here as they did there."""
    from zoo.verify import verify

    checks = verify(models, device=device, run=run, public_key=key)
    failed = [check for check in checks if not check.ok]
    result: dict[str, Any] = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    rows = [(check.model, check.check, "ok" if check.ok else "FAILED", check.detail) for check in checks]
    names = ", ".join(dict.fromkeys(check.model for check in failed))
    error = ModelError(f"{len(failed)} of {len(checks)} checks failed: {names}; fetch or export what failed again")
    if failed and out.as_json:  # one JSON value, in which the error stands beside what was found
        result |= {"error": str(error), "exit_code": error.exit_code}
    out.result(result, lambda: out.table(["model", "check", "", "detail"], rows))
    if failed and out.as_json:
        raise typer.Exit(error.exit_code)
    if failed:
        raise error
