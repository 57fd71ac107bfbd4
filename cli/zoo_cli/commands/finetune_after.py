"""`zoo finetune --after`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UsageError
from zoo_cli.render import Output, percent
from zoo_cli.settings import environment

if TYPE_CHECKING:
    from zoo.finetune.request import FinetuneRequest


def refuse(*, backbones: int, cascade: str | None, dry_run: bool, compare_scratch: bool) -> None:
    """Raises UsageError for options that do not go with --after."""
    if backbones > 1:
        raise UsageError(f"--backbone: {backbones} of them; one comes --after finished runs")
    for option, given in (
        (f"--cascade {cascade}", cascade is not None),
        ("--dry-run", dry_run),
        ("--compare-scratch", compare_scratch),
    ):
        if given:
            raise UsageError(f"{option}: not with --after, whose new model is a probe that hears others; leave it out")


def finetune_after(out: Output, request: FinetuneRequest, runs: Sequence[Path], folder: Path) -> None:
    """Trains after finished runs, and says what came of it."""
    from zoo.cascade.after import after
    from zoo.finetune.loop import InterruptedTrainingError

    try:
        result = after(request, runs, folder, environment(), out.progress)
    except InterruptedTrainingError:  # while a run before is trained without a part of its images
        raise KeyboardInterrupt("interrupted; nothing was written") from None

    def words() -> None:
        out.table(
            ["before", "backbone", "classes", "on them: validation", "test", "images answered unseen"],
            [
                (
                    each["run"],
                    each["backbone"],
                    len(each["classes"]),
                    percent(each["val_accuracy"]),
                    percent(each["test_accuracy"]),
                    f"{each['left_out']} of {each['images']}",
                )
                for each in result["upstream"]
            ],
        )
        flat, chain = result["methods"]
        out.table(
            ["way", "validation", "test"],
            [
                ("alone", percent(flat["val_accuracy"]), percent(flat["test_accuracy"])),
                ("after", percent(chain["val_accuracy"]), percent(chain["test_accuracy"])),
            ],
        )
        out.line(
            f"kept: {result['method']}, {result['backbone']}: test accuracy {percent(result['test_accuracy'])}, "
            f"validation {percent(result['val_accuracy'])}, in {result['seconds']:.1f} s"
        )
        run = shlex.quote(result["run"])
        out.line(f"run: {result['run']}   next: zoo export {run}")

    out.result(result, words)
