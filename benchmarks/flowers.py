"""A probe against training from scratch for the same time, on a user's kind of data.

    python benchmarks/flowers.py flowers5.zip --backbone torchvision/squeezenet1_1 --weights squeezenet1_1.pth

For all images and for 20 per class, each through the command line in a process of its own: the time is what a user
waits, start of Python and decoding of images included. Scratch gets as many epochs as fit into the time of the probe,
and one at least.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

from commands import finetune
from reporting import report


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for shots in (None, arguments.shots):
        common = [arguments.data, "--backbone", arguments.backbone, *(["--shots", str(shots)] if shots else [])]
        probe, probe_wall = _finetune([*common, "--strategy", "probe", "--weights", arguments.weights])
        rows.append(_row("probe", shots, probe, probe_wall))
        scratch = [*common, "--strategy", "scratch", "--patience", "0"]
        # One epoch tells what an epoch and everything around it cost.
        one, one_wall = _finetune([*scratch, "--epochs", "1"])
        epochs = max(1, 1 + math.floor((probe_wall - one_wall) / one["seconds"]))
        rows.append(_row("scratch, the same time", shots, *_finetune([*scratch, "--epochs", str(epochs)])))
        if shots:
            rows.append(_row("scratch, ten times as long", shots, *_finetune([*scratch, "--epochs", str(10 * epochs)])))
    report(rows, arguments.out)


def _finetune(words: list[str]) -> tuple[dict[str, Any], float]:
    """A run that finds nothing of earlier ones in its caches."""
    with tempfile.TemporaryDirectory() as cache:
        return finetune(words, Path(cache))


def _row(way: str, shots: int | None, result: dict[str, Any], wall: float) -> dict[str, Any]:
    return {
        "backbone": result["backbone"],
        "images per class": shots or "all",
        "way": way,
        "training images": result["train_images"],
        "epochs": round(result["epochs"]),
        "test accuracy": result["test_accuracy"],
        "validation accuracy": result["val_accuracy"],
        "seconds in all": round(wall, 1),
    }


if __name__ == "__main__":
    main()
