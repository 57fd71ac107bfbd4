"""`zoo weights fetch|list|verify|prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.errors import UsageError, WeightsError
from zoo_cli.command import command
from zoo_cli.render import Output, count
from zoo_cli.settings import cache_folder, catalogue, weights_mirror

if TYPE_CHECKING:
    from zoo.catalogue.weights import CachedFile


def add_to(app: typer.Typer) -> None:
    """Adds the group `weights`."""
    group = typer.Typer(name="weights", help="The files of pretrained weights.", no_args_is_help=True)
    command(group, "fetch")(_fetch)
    command(group, "list")(_list)
    command(group, "verify")(_verify)
    command(group, "prune")(_prune)
    app.add_typer(group)


def _fetch(
    out: Output,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Backbones, e.g. torchvision/resnet18[@TAG].")],
) -> None:
    """Fetch pretrained weights into the cache, so that later runs need no network; the licence is shown."""
    from zoo.catalogue.weights import fetch_weights

    rows = []
    for name in names:
        entry, weights = catalogue().find_backbone(name)
        if weights is None:
            if not entry.spec.weights:
                raise UsageError(f"{entry.id} has no pretrained weights to fetch")
            weights = entry.spec.weights[0]
        out.remark(f"{entry.id}@{weights.tag}: {weights.pretrained_on}, licence {weights.license}")
        path = fetch_weights(weights, cache_folder(), mirror=weights_mirror(), progress=out.progress)
        rows.append({"weights": f"{entry.id}@{weights.tag}", "path": str(path), "license": weights.license})

    def words() -> None:
        for row in rows:
            out.line(row["path"])

    out.result(rows, words)


def _list(out: Output) -> None:
    """List the files of weights in the cache, and which backbones they belong to."""
    _show(out, _cached())


def _verify(out: Output) -> None:
    """Compute the digest of every file of weights in the cache, and say which are damaged."""
    found = _cached(verify=True)
    _show(out, found)
    damaged = [file for file in found if file.state == "damaged"]
    if damaged:
        raise typer.Exit(WeightsError.exit_code)


def _prune(
    out: Output,
    everything: Annotated[bool, typer.Option("--all", help="All files, not only those nothing needs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove files of weights that are damaged, unfinished, or of no installed backbone."""
    from zoo.catalogue.weights import remove_cached

    useless = [file for file in _cached(verify=not everything) if everything or file.state != "ok"]
    total = sum(file.bytes for file in useless)
    question = f"remove {len(useless)} files, {count(total)}B?"
    if useless and not yes and not typer.confirm(question, err=True):
        raise UsageError(f"nothing removed: {len(useless)} files; answer y, or give --yes")
    for file in useless:
        remove_cached(file)
    out.result(
        {"removed": [_row(file) for file in useless], "bytes": total},
        lambda: out.line(f"removed {len(useless)} files, {count(total)}B"),
    )


def _cached(*, verify: bool = False) -> list[CachedFile]:
    from zoo.catalogue.weights import cached_weights

    return list(cached_weights(cache_folder(), catalogue().backbones, verify=verify))


def _row(file: CachedFile) -> dict[str, Any]:
    return {"path": str(file.path), "bytes": file.bytes, "weights": file.weights, "state": file.state}


def _show(out: Output, found: list[CachedFile]) -> None:
    def words() -> None:
        out.table(
            ["weights", "state", "size", "file"],
            [(file.weights, file.state, f"{count(file.bytes)}B", str(file.path)) for file in found],
        )

    out.result([_row(file) for file in found], words)
