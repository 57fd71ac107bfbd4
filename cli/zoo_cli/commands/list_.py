"""`zoo list backbones|heads|weights`."""

from __future__ import annotations

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
Filter = Annotated[str | None, typer.Argument(metavar="TEXT", help="Only names that contain this.")]


def _backbones(out: Output, text: Filter = None, license_: License = None) -> None:
    """List the backbones of the installed plugins."""
    found = [
        entry
        for entry in catalogue().backbones
        if (text or "") in entry.id and (license_ is None or _licensed(entry.spec.weights, license_))
    ]
    rows: list[dict[str, Any]] = [
        {
            "backbone": entry.id,
            "family": entry.spec.family,
            "stages": len(entry.spec.stages),
            "num_features": entry.spec.num_features,
            "params": entry.spec.params,
            "macs": entry.spec.macs,
            "input_size": entry.spec.input.height,
            "weights": [weights.tag for weights in _licensed(entry.spec.weights, license_)],
        }
        for entry in found
    ]
    out.result(
        rows,
        lambda: out.table(
            ["backbone", "stages", "features", "params", "MACs", "input", "weights"],
            [
                (
                    row["backbone"],
                    row["stages"],
                    row["num_features"],
                    count(row["params"]),
                    count(row["macs"]),
                    row["input_size"],
                    ", ".join(row["weights"]),
                )
                for row in rows
            ],
        ),
    )


def _heads(out: Output, text: Filter = None) -> None:
    """List the task heads of the installed plugins."""
    rows = [
        {
            "head": head.id,
            "task": head.spec.task,
            "options": {name: _plain(value) for name, value in head.spec.options.items()},
            "summary": head.spec.summary,
        }
        for head in catalogue().heads
        if (text or "") in head.id
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
