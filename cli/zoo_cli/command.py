"""What all commands share: --json, --quiet, --verbose, and errors that end in one line and an exit code."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from zoo.errors import MissingExtraError, ZooError
from zoo_cli.render import Output

_INTERRUPTED = 130

_SHARED = (
    ("json", Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]),
    ("quiet", Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks on stderr.")]),
    ("verbose", Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]),
)


def command(
    app: typer.Typer, name: str, *, environment: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as the command `name`; its first parameter is the `Output` it speaks through.

    With `environment`, options are also read from variables: with `ZOO_SERVE`, --port from ZOO_SERVE_PORT.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            as_json, quiet, verbose = (arguments.pop(shared) for shared, _ in _SHARED)
            out = Output(as_json=as_json, quiet=quiet)
            try:
                function(out, **arguments)
                sys.stdout.flush()
            except BrokenPipeError:
                raise  # the reader has had enough (`| head -1`): Typer ends the program without a word
            except (ZooError, OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
                if verbose:
                    traceback.print_exc()
                _fail(out, error)

        signature = inspect.signature(function, eval_str=True)
        shared = [
            inspect.Parameter(shared, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for shared, annotation in _SHARED
        ]
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(signature.parameters.values())[1:]
        ]
        run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        app.command(name, context_settings={"auto_envvar_prefix": environment} if environment else None)(run)
        return function

    return register


def _fail(out: Output, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        fail(str(error) or "interrupted", _INTERRUPTED, as_json=out.as_json)
    if isinstance(error, ModuleNotFoundError):
        if error.name is None or error.name.partition(".")[0].startswith("zoo"):
            raise error
        missing = MissingExtraError(f"not installed: {error.name!r}; install it with `pip install 'zoo[train]'`")
        fail(str(missing), missing.exit_code, as_json=out.as_json)
    if isinstance(error, OSError):
        # Whatever was not foreseen where it happened: a full disk, a file that went away.
        where = f": {error.filename}" if error.filename else ""
        fail(
            f"{error.strerror or error}{where}; make room or check permissions, then run it again",
            1,
            as_json=out.as_json,
        )
    assert isinstance(error, ZooError)
    fail(str(error), error.exit_code, as_json=out.as_json)


def fail(message: str, exit_code: int, *, as_json: bool) -> None:
    """Ends the program: one line on stderr, or the same words as JSON on stdout."""
    if as_json:
        sys.stdout.write(json.dumps({"error": message, "exit_code": exit_code}) + "\n")
    else:
        sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(exit_code)
