"""`zoo quickstart`."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_cli.command import command, fail
from zoo_cli.render import Output, percent
from zoo_cli.settings import cache_folder

_DATA = "builtin:digits"
_BACKBONE = "tiny/glyphnet"


def add_to(app: typer.Typer) -> None:
    """Adds the command `quickstart`."""

    def quickstart(
        out: Output,
        shots: Annotated[int, typer.Option(min=1, help="Labelled images per class.")] = 3,
        seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
        folder: Annotated[Path | None, typer.Option("--out", help="A new folder (default: zoo-quickstart).")] = None,
    ) -> None:
        """The whole way in about a minute: digits from a few images per class, offline, on the CPU."""
        _quickstart(out, lambda *arguments: _run(app, out, arguments), shots, seed, folder or _fresh_folder())

    command(app, "quickstart")(quickstart)


def _quickstart(out: Output, zoo: Callable[..., Any], shots: int, seed: int, folder: Path) -> None:
    from zoo.artifacts.runs import RunFolder
    from zoo.data.source import list_source
    from zoo.finetune.curves import LearningCurve
    from zoo_cli.plots import save_curves

    began = time.monotonic()
    model, plot = folder / "digits.onnx", folder / "curves.svg"
    results, curves = {}, {}
    # A network this small takes a larger rate than the default, which suits large pretrained ones.
    ways = {"transfer": ("--strategy", "lp-ft", "--lr", "1e-3"), "scratch": ("--strategy", "scratch")}
    for name, way in ways.items():
        run = folder / name
        common = ("--backbone", _BACKBONE, "--shots", shots, "--seed", seed, "--device", "cpu", "--track-test")
        results[name] = zoo("finetune", _DATA, *common, *way, "--out", run)
        curves[name] = LearningCurve.from_metrics(RunFolder.open_complete(run).read_metrics())
    # The level is the scratch run's own: how soon is transfer where scratch ends up?
    level = 0.9 * curves["scratch"].asymptote
    facts = {
        name: {"start": curve.start, "steps_to_level": curve.steps_to(level), "asymptote": curve.asymptote}
        for name, curve in curves.items()
    }
    save_curves(plot, curves, f"digits, {shots} labelled images per class")
    exported = zoo("export", folder / "transfer", "-o", model)
    bench = zoo("bench", model, "--seconds", 1, "--device", "cpu")["rows"]
    listing = list_source(_DATA, cache_folder())
    image = next(listing.root / file.file for file in listing.files if file.split == "test" and file.label == "7")
    answer = zoo("predict", model, image, "--device", "cpu")[0]
    value = {
        "transfer_accuracy": results["transfer"]["test_accuracy"],
        "scratch_accuracy": results["scratch"]["test_accuracy"],
        "curves": facts,
        "level": level,
        "model": str(model),
        "plot": str(plot),
        "bench": bench,
        "prediction": answer,
        "seconds": time.monotonic() - began,
    }

    def words() -> None:
        transfer, scratch = facts["transfer"], facts["scratch"]
        out.line()
        out.table(
            ["digits, test accuracy", "transfer", "scratch"],
            [
                ("higher start: before the first step", percent(transfer["start"]), percent(scratch["start"])),
                (
                    f"higher slope: steps to {percent(level)}",
                    str(transfer["steps_to_level"]),
                    str(scratch["steps_to_level"]),
                ),
                ("higher asymptote: at the end", percent(transfer["asymptote"]), percent(scratch["asymptote"])),
            ],
        )
        out.line(f"learning curves: {plot}")
        out.line(
            f"model: {model}, {exported['bytes'] / 1e6:.1f} MB, {bench[0]['p50_ms']:.2f} ms an image; "
            f"{image.name} is a {answer['label']} ({percent(answer['probability'])})"
        )
        out.line(f"done in {value['seconds']:.0f} s; now serve it:  zoo serve {shlex.quote(str(model))}")

    out.result(value, words)


def _run(app: typer.Typer, out: Output, arguments: tuple[object, ...]) -> Any:
    """Runs a public command in this process and gives its JSON result; ends the program as it ends where it fails."""
    words = [str(argument) for argument in arguments]
    out.remark(f"$ zoo {shlex.join(words)}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = app([*words, "--json", *(["--quiet"] if out.quiet else [])], standalone_mode=False)
    value = json.loads(printed.getvalue())
    if code:
        fail(value["error"], code, as_json=out.as_json)
    return value


def _fresh_folder() -> Path:
    """`zoo-quickstart`, or the first free name with a number."""
    folder, number = Path("zoo-quickstart"), 1
    while folder.exists():
        number += 1
        folder = Path(f"zoo-quickstart-{number}")
    return folder
