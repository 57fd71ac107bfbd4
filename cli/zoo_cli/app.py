"""The tree of commands and the way out of it."""

from __future__ import annotations

import io
import json
import sys
import warnings
from typing import Annotated

import typer

from zoo import __version__
from zoo_cli.commands import (
    bench,
    card,
    cascade,
    data,
    deploy,
    evaluate,
    export,
    finetune,
    list_,
    load,
    plugins,
    predict,
    quickstart,
    recommend,
    registry,
    report,
    serve,
    show,
    sign,
    verify,
    weights,
)
from zoo_cli.settings import add_registries

app = typer.Typer(
    name="zoo",
    help="Pretrained backbone + your data -> one small, honest, servable ONNX file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing what draws boxes takes longer than all the rest of `zoo --help`
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    registry: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|URL", help="A registry.json beside Zoo's own; may be given several times."),
    ] = None,
) -> None:
    del version
    add_registries(registry or [])


for module in (
    quickstart,
    recommend,
    list_,
    show,
    plugins,
    weights,
    data,
    recommend,
    finetune,
    cascade,
    evaluate,
    report,
    export,
    verify,
    card,
    sign,
    predict,
    bench,
    serve,
    load,
    deploy,
    registry,
):
    module.add_to(app)


def main() -> None:
    """The console script. With --json, a wrong command line is reported as JSON too."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Hours of work must not end in an error because a terminal or pipe has no letter for the name of a class.
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow's, of an image that Zoo refuses in its own words.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    if "--json" not in sys.argv:
        app()
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # Typer's own usage errors; their class is not public, their attributes are.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        code = error.exit_code
        sys.stdout.write(json.dumps({"error": error.format_message(), "exit_code": code}) + "\n")
    sys.exit(code if isinstance(code, int) else 0)
