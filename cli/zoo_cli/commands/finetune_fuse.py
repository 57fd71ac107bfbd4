"""`zoo finetune --cascade fuse`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_cli.render import Output, percent
from zoo_cli.settings import environment

if TYPE_CHECKING:
    from zoo.finetune.request import FinetuneRequest


def side_by_side(out: Output, requests: Sequence[FinetuneRequest], max_latency: float | None) -> FinetuneRequest:
    """The training of the backbones that probes choose, side by side in one model."""
    from zoo.cascade import fuse

    return fuse.side_by_side(requests, environment(), out.progress, max_latency=max_latency)


def train_fused(out: Output, requests: Sequence[FinetuneRequest], folder: Path, max_latency: float | None) -> None:
    """Fuses probes of the backbones, and says what came of it."""
    from zoo.cascade.fuse import fuse

    result = fuse(requests, folder, environment(), out.progress, max_latency=max_latency)

    def words() -> None:
        rows = [
            (member["backbone"], percent(member["val_accuracy"]), percent(member["test_accuracy"]))
            for member in result["probes"]
        ]
        out.table(["backbone", "probe alone: validation", "test"], rows)
        tried = ", ".join(f"{way['method']} {percent(way['val_accuracy'])}" for way in result["methods"])
        out.line(f"validation accuracy of each way to fuse: {tried}; kept: {result['method']}")
        out.line(
            f"fuse of {result['backbone']}: test accuracy {percent(result['test_accuracy'])}, validation "
            f"{percent(result['val_accuracy'])}, in {result['seconds']:.1f} s"
        )
        run = shlex.quote(result["run"])
        out.line(f"run: {result['run']}   next: zoo export {run}")

    out.result(result, words)
