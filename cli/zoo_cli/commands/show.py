"""`zoo show NAME`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from zoo_cli.command import command
from zoo_cli.render import Output, count
from zoo_cli.settings import catalogue


def add_to(app: typer.Typer) -> None:
    """Adds the command `show`."""
    command(app, "show")(_show)


def _show(
    out: Output, name: Annotated[str, typer.Argument(metavar="NAME", help="A backbone, e.g. torchvision/resnet18.")]
) -> None:
    """Show all facts of one backbone: stages, sizes, pretrained weights and what they expect."""
    entry, _ = catalogue().find_backbone(name)
    spec = entry.spec
    value: dict[str, Any] = {
        "backbone": entry.id,
        "distribution": entry.plugin.source,
        "family": spec.family,
        "num_features": spec.num_features,
        "params": spec.params,
        "macs": spec.macs,
        "stages": [stage.to_json() for stage in spec.stages],
        "input": asdict(spec.input),
        "weights": [{**asdict(weights), "metrics": dict(weights.metrics)} for weights in spec.weights],
    }

    def words() -> None:
        out.line(f"{entry.id}  ({entry.plugin.source}, family {spec.family})")
        out.line(f"{count(spec.params)} parameters, {count(spec.macs)} MACs, embedding of {spec.num_features}")
        rows = [(number, stage.channels, stage.stride, stage.layout) for number, stage in enumerate(spec.stages)]
        out.table(["stage", "channels", "stride", "layout"], rows)
        for weights in spec.weights:
            size = weights.input
            accuracy = ", ".join(f"{metric} {score:.3f}" for metric, score in weights.metrics.items())
            out.line(
                f"@{weights.tag}: {weights.pretrained_on}, {size.height} x {size.width}, "
                f"{size.interpolation}, {weights.license}{', ' + accuracy if accuracy else ''}"
            )

    out.result(value, words)
