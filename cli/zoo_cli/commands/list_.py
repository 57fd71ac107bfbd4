"""`zoo list backbones|heads|weights`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_cli.command import command
from zoo_cli.render import Output, count, percent
from zoo_cli.settings import catalogue

if TYPE_CHECKING:
    from zoo.specs import WeightsSpec


def add_to(app: typer.Typer) -> None:
    """Adds the group `list`."""
    group = typer.Typer(name="list", help="What is installed.", no_args_is_help=True)
    command(group, "backbones")(_backbones)
    command(group, "heads")(_heads)
    command(group, "weights")(_weights)
    app.add_typer(group)


License = Annotated[
    str | None,
    typer.Option("--license", metavar="NAME|permissive", help="Only weights of this licence, or a permissive one."),
]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="Only for this task, e.g. classification.")]
MaxLatency = Annotated[
    float | None,
    typer.Option(metavar="MS", min=0, help="Only those measured to take at most so long for one image, on one thread."),
]
Filter = Annotated[str | None, typer.Argument(metavar="TEXT", help="Only names that contain this.")]


def _backbones(
    out: Output,
    text: Filter = None,
    license_: License = None,
    task: Task = None,
    max_latency: MaxLatency = None,
) -> None:
    """List the backbones of the installed plugins, and how long they take for one image where that was measured."""
    latencies = catalogue().latencies
    needs = catalogue().needs_of(task) if task is not None else None
    found = [
        entry
        for entry in catalogue().backbones
        if (text or "") in entry.id
        and (license_ is None or _licensed(entry.spec.weights, license_))
        and (needs is None or any(entry.gives(each) for each in needs))
    ]
    if max_latency is not None:
        if unknown := [entry.id for entry in found if entry.id not in latencies]:
            out.remark(f"not measured, and left out: {', '.join(unknown)}")
        found = [entry for entry in found if latencies.get(entry.id, math.inf) <= max_latency]
    rows: list[dict[str, Any]] = [
        {
            "backbone": entry.id,
            "family": entry.spec.family,
            "stages": len(entry.spec.stages),
            "num_features": entry.spec.num_features,
            "params": entry.spec.params,
            "macs": entry.spec.macs,
            "latency_ms": latencies.get(entry.id),
            "input_size": entry.spec.input.height,
            "weights": [weights.tag for weights in _licensed(entry.spec.weights, license_)],
        }
        for entry in found
    ]
    out.result(
        rows,
        lambda: out.table(
            ["backbone", "stages", "features", "params", "MACs", "ms", "input", "weights"],
            [
                (
                    row["backbone"],
                    row["stages"],
                    row["num_features"],
                    count(row["params"]),
                    count(row["macs"]),
                    row["latency_ms"],
                    row["input_size"],
                    ", ".join(row["weights"]),
                )
                for row in rows
            ],
        ),
    )


def _heads(out: Output, text: Filter = None, task: Task = None) -> None:
    """List the task heads of the installed plugins."""
    if task is not None:
        catalogue().needs_of(task)
    rows = [
        {
            "head": head.id,
            "task": head.spec.task,
            "options": {name: _plain(value) for name, value in head.spec.options.items()},
            "summary": head.spec.summary,
        }
        for head in catalogue().heads
        if (text or "") in head.id and task in (None, head.spec.task)
    ]
    out.result(
        rows,
        lambda: out.table(
            ["head", "task", "options", "summary"],
            [
                (row["head"], row["task"], ", ".join(f"{k}={v}" for k, v in row["options"].items()), row["summary"])  # type: ignore[attr-defined]
                for row in rows
            ],
        ),
    )


def _weights(out: Output, text: Filter = None, license_: License = None) -> None:
    """List the pretrained weights of the installed backbones."""
    rows: list[dict[str, Any]] = [
        {
            "weights": f"{entry.id}@{weights.tag}",
            "pretrained_on": weights.pretrained_on,
            "license": weights.license,
            "metrics": dict(weights.metrics),
            "url": weights.url,
            "sha256": weights.sha256,
        }
        for entry in catalogue().backbones
        for weights in _licensed(entry.spec.weights, license_)
        if (text or "") in f"{entry.id}@{weights.tag}"
    ]
    out.result(
        rows,
        lambda: out.table(
            ["weights", "trained on", "accuracy there", "licence"],
            [
                (row["weights"], row["pretrained_on"], percent(row["metrics"].get("acc@1")), row["license"])
                for row in rows
            ],
        ),
    )


def _licensed(weights: Sequence[WeightsSpec], wanted: str | None) -> list[WeightsSpec]:
    from zoo.catalogue.licenses import has_license

    return [each for each in weights if has_license(each.license, wanted)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
