"""`zoo registry write|measure|check`: for those who maintain registry.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from zoo.errors import ZooError
from zoo_cli.command import command
from zoo_cli.render import Output
from zoo_cli.settings import catalogue, environment

Registry = Annotated[Path, typer.Argument(metavar="FILE", help="The registry file.", dir_okay=False)]
Distribution = Annotated[str, typer.Option(help="Whose plugins the file describes.")]


def add_to(app: typer.Typer) -> None:
    """Adds the group `registry`."""
    group = typer.Typer(name="registry", help="Write or check a registry.json.", no_args_is_help=True)
    command(group, "write")(_write)
    command(group, "measure")(_measure)
    command(group, "record")(_record)
    command(group, "source")(_source)
    command(group, "check")(_check)
    app.add_typer(group)


def _write(out: Output, path: Registry = Path("registry.json"), distribution: Distribution = "zoo") -> None:
    """Write the registry of what a distribution's installed plugins declare; what was measured in it stays."""
    from zoo.artifacts.files import write_json
    from zoo.catalogue.registry import build_registry, keep_measurements, read_registry, validate

    value = build_registry(catalogue().plugins, distribution)
    if path.is_file():
        value = keep_measurements(value, read_registry(path))
    validate(value, str(path))
    write_json(path, value)
    facts = {"path": str(path), "backbones": len(value["backbones"]), "plugins": len(value["plugins"])}
    out.result(facts, lambda: out.line(f"{path}: {facts['backbones']} backbones of {facts['plugins']} plugins"))


def _measure(out: Output, path: Registry = Path("registry.json")) -> None:
    """Measure how long each installed backbone in a registry takes for one image, and write it down there."""
    from zoo.artifacts.files import write_json
    from zoo.catalogue.registry import read_registry
    from zoo.export.latency import backbone_latency, this_machine

    value, rows = read_registry(path), {}
    installed = {entry.id: entry.spec for entry in catalogue().backbones}
    entries = [entry for entry in value["backbones"] if entry["id"] in installed]
    value["measured_on"] = this_machine()
    with out.progress.task("measuring", len(entries)) as task:
        for entry in entries:
            rows[entry["id"]] = entry["latency_ms"] = round(backbone_latency(installed[entry["id"]]), 1)
            write_json(path, value)
            task.advance(1, entry["id"])
    out.result(rows, lambda: out.table(["backbone", "ms"], list(rows.items())))


def _record(
    out: Output,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")],
    path: Annotated[
        Path, typer.Option("--registry", metavar="FILE", help="The registry file, new or not.", dir_okay=False)
    ] = Path("registry.json"),
    data: Annotated[str | None, typer.Option(metavar="NAME", help="What to call the data set (as its folder).")] = None,
) -> None:
    """Record in a registry how good finished runs are: `zoo recommend` learns from it which ways are worth trying."""
    from zoo.artifacts.files import write_json
    from zoo.artifacts.runs import RunFolder
    from zoo.catalogue.registry import SCHEMA, read_registry, validate
    from zoo.catalogue.results import add_results, result_of

    results = [result_of(RunFolder.open_complete(run), data) for run in runs]
    before = read_registry(path) if path.exists() else {"schema": SCHEMA, "plugins": [], "backbones": []}
    value = add_results(before, results)
    validate(value, str(path))
    write_json(path, value)
    rows = [asdict(each) for each in results]
    facts = {"path": str(path), "recorded": rows, "results": len(value["results"])}
    columns = ("data", "backbone", "strategy", "train_images", "test_accuracy")

    def words() -> None:
        out.table(
            ["data", "backbone", "strategy", "images", "test accuracy"], [[row[c] for c in columns] for row in rows]
        )
        out.line(f"{path}: {facts['results']} results")

    out.result(facts, words)


def _source(
    out: Output,
    weights: Annotated[str, typer.Argument(metavar="NAME", help="A backbone with its weights: PLUGIN/NAME[@TAG].")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Images like those it was pretrained on.")],
    path: Annotated[Path, typer.Option("--registry", metavar="FILE", help="The registry file.", dir_okay=False)] = Path(
        "registry.json"
    ),
) -> None:
    """Measure what the source data of pretrained weights is like, so that `zoo recommend` knows how far others are."""
    from zoo.artifacts.files import write_json
    from zoo.catalogue.registry import read_registry, validate
    from zoo.recommend.source import source_row, with_source

    row = source_row(weights, data, environment(), out.progress)
    value = with_source(read_registry(path), row)
    validate(value, str(path))
    write_json(path, value)
    out.result(row, lambda: out.line(f"{path}: source of {row['weights']}, {len(row['mean'])} features"))


def _check(out: Output, path: Registry = Path("registry.json"), distribution: Distribution = "zoo") -> None:
    """Check a registry against its schema and against the installed plugins."""
    from zoo.catalogue.registry import build_registry, keep_measurements, read_registry

    found = read_registry(path)
    if found != keep_measurements(build_registry(catalogue().plugins, distribution), found):
        raise ZooError(f"registry is out of date: {path}; write it again with `zoo registry write {path}`")
    out.result({"path": str(path), "ok": True}, lambda: out.line(f"{path}: fits the schema and the installed plugins"))
