"""`zoo data check`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import DataError
from zoo_cli.command import command
from zoo_cli.options import Device, Threads
from zoo_cli.render import Output
from zoo_cli.settings import environment

_SHOWN = 5
"""Findings of one kind on the terminal; JSON and the page have them all."""


def add_to(app: typer.Typer) -> None:
    """Adds the group `data`."""
    group = typer.Typer(name="data", help="The images to train on.", no_args_is_help=True)
    command(group, "check")(_check)
    app.add_typer(group)


def _check(
    out: Output,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a .zip, a .csv, or builtin:digits.")],
    backbone: Annotated[
        str, typer.Option(help="Whose features say which labels look wrong; auto: the best whose weights are at hand.")
    ] = "auto",
    weights: Annotated[str | None, typer.Option(help="A tag or a file, for --backbone.")] = None,
    input_size: Annotated[int | None, typer.Option(metavar="N", min=1, help="Another square input size.")] = None,
    val_share: Annotated[float | None, typer.Option(help="Share of the training images held out.")] = None,
    seed: Annotated[int, typer.Option(help="Decides how images are split.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    target: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with the images in question.")
    ] = None,
) -> None:
    """Look for what spoils a training: unreadable files, duplicates, leaks between splits, labels that look wrong."""
    from zoo.audit.run import check_data
    from zoo.finetune.request import FinetuneRequest
    from zoo.report.audit import audit_page, check_page

    if target is not None:
        check_page(target)
    asked = FinetuneRequest(
        data=data,
        backbone=backbone,
        weights=weights,
        input_size=input_size,
        val_share=val_share,
        seed=seed,
        device=device,
        threads=threads,
    )
    found = check_data(asked, environment(), out.progress)
    if target is not None:
        audit_page(found, target)
    out.result(found, lambda: _words(out, found, target))
    if not found["ok"]:
        raise typer.Exit(DataError.exit_code)


def _words(out: Output, found: dict[str, Any], target: Path | None) -> None:
    facts, kinds = found["statistics"], defaultdict(list)
    out.line(
        f"{facts['images']} images in {len(facts['classes'])} classes, short side {facts['short_side'][0]} to "
        f"{facts['short_side'][2]} pixels ({facts['short_side'][1]} in the middle), {facts['grey']} grey"
    )
    for finding in found["findings"]:
        kinds[finding["severity"], finding["kind"]].append(finding)
    for (severity, kind), findings in kinds.items():
        out.line(f"{severity}: {kind} ({len(findings)})")
        for finding in findings[:_SHOWN]:
            files = ", ".join(finding["files"][:_SHOWN])
            out.line(f"  {files}{': ' if files else ''}{finding['message']}")
        if len(findings) > _SHOWN:
            out.line(f"  and {len(findings) - _SHOWN} more, see --json or --html")
    if found["labels_judged_by"]:
        out.line(f"labels were judged by the features of {found['labels_judged_by']}")
    else:
        out.line(f"labels were not judged: {found['labels_not_judged']}")
    if target is not None:
        out.line(f"page: {target}")
    out.line("nothing stands in the way of training" if found["ok"] else "mend the errors before you train")
