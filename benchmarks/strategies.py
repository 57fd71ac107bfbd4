"""Strategies and options of fine-tuning against each other, several seeds each.

    python benchmarks/strategies.py recipes flowers5.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

Tables: `boundary` (activations kept or not), `recipes` (options of training on and off, 15 % of the labels),
`augment` (policies by images per class), `transfer` (scratch, probe and fine-tuning by images per class), `views` (of a
probe, by images per class), `calibration`. Every cell is one command in a process of its own; in `boundary` it finds
nothing of earlier ones in its caches, so that its seconds are what a user waits. Finished cells are kept in --cells: a
benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from commands import finetune
from reporting import report

from zoo.artifacts.runs import RunFolder
from zoo.finetune.curves import LearningCurve
from zoo.metrics import calibration_error_by_chance

_PARTIAL = ("--strategy", "partial", "--freeze-stages", "3", "--patience", "0")
_FEW_LABELS = (*_PARTIAL, "--shots", "45", "--val-share", "0.15", "--epochs", "20")


def _boundary() -> dict[str, tuple[str, ...]]:
    partial = ("--strategy", "partial", "--freeze-stages", "4", "--epochs", "20", "--patience", "0")
    return {
        "images through all stages in every epoch": (*partial, "--cache", "never"),
        "activations kept, 1 view": (*partial, "--cache", "always", "--views", "1"),
        "activations kept, 5 views": (*partial, "--cache", "always"),
        "head only, features kept": ("--strategy", "probe"),
    }


def _recipes() -> dict[str, tuple[str, ...]]:
    return {
        "partial": _FEW_LABELS,
        "with --l2-sp 0.01": (*_FEW_LABELS, "--l2-sp", "0.01"),
        "with --co-tuning 2.3": (*_FEW_LABELS, "--co-tuning", "2.3"),
        "with --average": (*_FEW_LABELS, "--average"),
        "with --interpolate": (*_FEW_LABELS, "--interpolate"),
        "with --lr-race": (*_FEW_LABELS, "--lr-race"),
        "with --layer-decay 0.5": (*_FEW_LABELS, "--layer-decay", "0.5"),
        "surgical": ("--strategy", "surgical", *_FEW_LABELS[4:]),
        "gradual": ("--strategy", "gradual", *_FEW_LABELS[4:]),
        "lp-ft": ("--strategy", "lp-ft", *_FEW_LABELS[4:]),
        "full": ("--strategy", "full", *_FEW_LABELS[4:]),
        "probe": ("--strategy", "probe", "--shots", "45", "--val-share", "0.15"),
    }


def _augment() -> dict[str, tuple[str, ...]]:
    cells = {}
    for shots in ("10", "45", "all"):
        some = () if shots == "all" else ("--shots", shots, "--val-share", "0")
        for policy in ("none", "gentle", "crop", "trivial"):
            epochs = "5" if shots == "all" else "15"
            cells[f"{shots} per class, {policy}"] = (*_PARTIAL, *some, "--epochs", epochs, "--augment", policy)
    return cells


def _transfer() -> dict[str, tuple[str, ...]]:
    # As many epochs as make the steps worth taking; scratch, which has further to go, gets twice as many.
    epochs = {"5": 20, "10": 20, "20": 20, "50": 10, "100": 10, "all": 5}
    cells: dict[str, tuple[str, ...]] = {}
    for shots, count in epochs.items():
        some = () if shots == "all" else ("--shots", shots, "--val-share", "0")
        trained = ("--patience", "0", "--track-test", *some)
        cells[f"{shots} per class, probe"] = ("--strategy", "probe", *some)
        cells[f"{shots} per class, lp-ft"] = ("--strategy", "lp-ft", "--epochs", str(count), *trained)
        cells[f"{shots} per class, scratch"] = ("--strategy", "scratch", "--epochs", str(2 * count), *trained)
    return cells


def _views() -> dict[str, tuple[str, ...]]:
    cells = {}
    for shots in ("5", "10", "20", "50", "100", "all"):
        some = () if shots == "all" else ("--shots", shots, "--val-share", "0")
        for views in ("1", "2", "3", "5"):
            cells[f"{shots} per class, {views} views"] = ("--strategy", "probe", "--views", views, *some)
    return cells


_TABLES: dict[str, Callable[[], dict[str, tuple[str, ...]]]] = {
    "boundary": _boundary,
    "recipes": _recipes,
    "augment": _augment,
    "transfer": _transfer,
    "views": _views,
    "calibration": lambda: {"probe": ("--strategy", "probe"), "fine-tuned": (*_PARTIAL, "--epochs", "5")},
}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(_TABLES))
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", help="a file, where the backbone does not ship its own")
    parser.add_argument("--input-size", help="another input size than the backbone's own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="only rows whose name contains this")
    parser.add_argument("--cells", type=Path, help="a file of finished cells, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = []
    with tempfile.TemporaryDirectory() as shared:
        for way, words in _TABLES[arguments.table]().items():
            if arguments.only and arguments.only not in way:
                continue
            cells = []
            for seed in range(arguments.seeds):
                name = {"data": Path(arguments.data).name, "backbone": arguments.backbone, "way": way, "seed": seed}
                name |= {"input_size": arguments.input_size}
                cell = next((cell for cell in done if name.items() <= cell.items()), None)
                if cell is None:
                    pretrained = arguments.weights is not None and "scratch" not in words
                    weights = ("--weights", arguments.weights) if pretrained else ()
                    size = ("--input-size", arguments.input_size) if arguments.input_size else ()
                    command = [arguments.data, "--backbone", arguments.backbone, *weights, *size, *words]
                    command += ["--seed", str(seed)]
                    with tempfile.TemporaryDirectory() as alone:
                        cache = alone if arguments.table == "boundary" else shared
                        run = Path(alone) / "run"
                        result, wall = finetune(command, Path(cache), out=run)
                        more = _FROM_RUN[arguments.table](run) if arguments.table in _FROM_RUN else {}
                    cell = {**name, "wall": wall, **more, **{key: result[key] for key in _KEPT}}
                    with log.open("a") as file:
                        file.write(json.dumps(cell) + "\n")
                cells.append(cell)
            rows.append(_row(way, cells) | _more(arguments.table, cells))
    report(rows, arguments.out)


_KEPT = ("strategy", "test_accuracy", "val_accuracy", "test_ece", "steps", "seconds", "train_images")


def _row(way: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [cell["test_accuracy"] for cell in cells]
    values = [cell["val_accuracy"] for cell in cells if cell["val_accuracy"] is not None]
    return {
        "way": way,
        "seeds": len(cells),
        "test accuracy": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if len(cells) > 1 else None,
        "validation accuracy": statistics.mean(values) if values else None,
        "ECE": statistics.mean(cell["test_ece"] for cell in cells),
        "steps": round(statistics.mean(cell["steps"] for cell in cells)),
        "seconds in all": round(statistics.mean(cell["wall"] for cell in cells), 1),
    }


def _chance(run: Path) -> dict[str, float]:
    with np.load(run / "predictions.npz") as predictions:
        return {"ece_by_chance": calibration_error_by_chance(predictions["test"].max(1))}


_FROM_RUN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "transfer": lambda run: {"metrics": RunFolder(run).read_metrics()},
    "calibration": _chance,
}


def _more(table: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns that one table has beside those of all."""
    if table == "calibration":
        return {"ECE of perfect calibration": statistics.mean(cell["ece_by_chance"] for cell in cells)}
    return _promises(cells) if table == "transfer" else {}


def _promises(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Start and slope of the learning curves; the asymptote is the test accuracy."""
    curves = [LearningCurve.from_metrics(cell["metrics"]) for cell in cells]
    if not all(curve.steps for curve in curves):
        return {"start": None, "steps to .75": None}
    reached = [steps for curve in curves if (steps := curve.steps_to(0.75)) is not None]
    return {
        "start": statistics.mean(curve.start for curve in curves),
        "steps to .75": round(statistics.mean(reached)) if len(reached) == len(curves) else None,
    }


if __name__ == "__main__":
    main()
