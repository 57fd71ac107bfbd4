"""A fine classifier after a coarse one (`zoo finetune --after`) beside the same one alone: several seeds.

    python benchmarks/after.py sign_digits10.zip=0,1,2,3,4,5/6,7,8,9 flowers5.zip+trashnet6.zip \
        --pair torchvision/squeezenet1_1=squeezenet1_1.pth torchvision/mobilenet_v2=mobilenet_v2.pth

Each data set has groups of classes: those named behind `=`, or one for each of several archives. The coarse run is a
probe of the first backbone of a pair on the groups, the fine one a probe of the second on the classes of all groups. A
perfect coarse run would add `oracle`: each answer of the fine one alone is taken among the classes of the true group.
With --shots the fine model has so many images of each class, a fifth of them to validate, and the coarse one all.
Finished cells are kept in --cells: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reporting import report
from zoo_cli.settings import cache_folder

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.data.source import list_source
from zoo.data.splits import VAL_SHARE


@dataclass(frozen=True)
class Image:
    """One image with its class, the group of this, and the split of its archive."""

    path: Path
    label: str
    group: str
    split: str


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="A.zip+B.zip, or A.zip=CLASS,CLASS/CLASS,CLASS")
    parser.add_argument("--pair", action="append", nargs=2, required=True, metavar="BACKBONE=FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--shots", type=int, help="only so many training images of each class have a fine label")
    parser.add_argument("--cells", type=Path, help="a file of finished cells, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = []
    for data in arguments.data:
        images, name = _images(data), "+".join(Path(part).name for part in data.partition("=")[0].split("+"))
        for coarse, fine in arguments.pair:
            cells = []
            for seed in range(arguments.seeds):
                key = {
                    "data": name,
                    "seed": seed,
                    "coarse": coarse,
                    "fine": fine,
                    "size": arguments.input_size,
                    "shots": arguments.shots,
                }
                cell = next((cell for cell in done if key.items() <= cell.items()), None)
                if cell is None:
                    cell = {**key, **_measure(images, seed, coarse, fine, arguments.input_size, arguments.shots)}
                    with log.open("a") as file:
                        file.write(json.dumps(cell) + "\n")
                cells.append(cell)
            rows.append(_row(cells))
            report(rows[-1:], None)
    report(rows, arguments.out)


def _images(data: str) -> list[Image]:
    archives, _, groups = data.partition("=")
    of_class = {label: group.replace(",", " ") for group in groups.split("/") if group for label in group.split(",")}
    found = []
    for archive in archives.split("+"):
        listing = list_source(archive, cache_folder())
        for file in listing.files:
            group = of_class.get(file.label, Path(archive).stem)
            found.append(Image(listing.root.resolve() / file.file, file.label, group, file.split or "train"))
    return found


def _measure(
    images: list[Image], seed: int, coarse: str, fine: str, size: int | None, shots: int | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        val = _drawn(images, seed)
        left_out = _not_labelled(images, val, seed, shots) if shots else set[Path]()
        for name, without in (("group", set[Path]()), ("label", left_out)):
            with (root / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label", "split"])
                kept = (image for image in images if image.path not in without)
                writer.writerows([i.path, getattr(i, name), "val" if i.path in val else i.split] for i in kept)
        before = _finetune(root, "group", coarse, seed, size, "coarse", "--strategy", "probe")
        _finetune(root, "label", fine, seed, size, "flat", "--strategy", "probe")
        chain = _finetune(root, "label", fine, seed, size, "chain", "--after", str(root / "coarse"))
        alone, after = chain["methods"]
        return {
            "coarse_accuracy": before["test_accuracy"],
            "flat_accuracy": alone["test_accuracy"],
            "chain_accuracy": after["test_accuracy"],
            "oracle_accuracy": _oracle(RunFolder(root / "flat"), {image.label: image.group for image in images}),
            "method": chain["method"],
            "losses": [alone["val_loss"], after["val_loss"]],
            "seconds": chain["seconds"],
        }


def _drawn(images: list[Image], seed: int) -> set[Path]:
    """The same validation images for groups and classes, so that features are computed once."""
    classes = defaultdict(list)
    for image in images:
        if image.split == "train":
            classes[image.label].append(image.path)
    draw = random.Random(seed)
    return {path for paths in classes.values() for path in draw.sample(sorted(paths), round(VAL_SHARE * len(paths)))}


def _not_labelled(images: list[Image], val: set[Path], seed: int, shots: int) -> set[Path]:
    """All but so many images of each class that are not test images, a fifth of them to validate."""
    draw, found = random.Random(seed), set[Path]()
    for validating, count in ((True, max(2, shots // 5)), (False, shots - max(2, shots // 5))):
        classes = defaultdict(list)
        for image in images:
            if image.split != "test" and (image.path in val) == validating:
                classes[image.label].append(image.path)
        for paths in classes.values():
            found |= set(paths) - set(draw.sample(sorted(paths), min(count, len(paths))))
    return found


def _finetune(root: Path, data: str, member: str, seed: int, size: int | None, out: str, *more: str) -> dict[str, Any]:
    backbone, _, weights = member.partition("=")
    words = [sys.executable, "-m", "zoo_cli", "finetune", str(root / f"{data}.csv"), "--backbone", backbone]
    words += ["--weights", weights, "--seed", str(seed), "--json", "--out", str(root / out), *more]
    words += ["--input-size", str(size)] if size else []
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _oracle(run: RunFolder, group_of: dict[str, str]) -> float:
    """Accuracy of a run about test images whose group it is told."""
    data = DataSet.from_json(run.read("dataset"))
    groups = np.array([group_of[name] for name in data.classes])
    truth = np.array([sample.label for sample in data.of("test")])
    said = np.where(groups == groups[truth][:, None], run.read_predictions()["test"], -1)
    return float((said.argmax(1) == truth).mean())


def _row(cells: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return statistics.mean(cell[f"{name}_accuracy"] for cell in cells)

    gains = [100 * (cell["chain_accuracy"] - cell["flat_accuracy"]) for cell in cells]
    first = cells[0]
    return {
        "data": first["data"],
        **{name: first[name].partition("=")[0].rpartition("/")[2] for name in ("coarse", "fine")},
        "shots": first["shots"] or "all",
        "seeds": len(cells),
        "coarse accuracy": mean("coarse"),
        "flat": mean("flat"),
        "chain": mean("chain"),
        "points": statistics.mean(gains),
        "of each seed": ", ".join(f"{gain:.1f}" for gain in gains),
        "oracle": mean("oracle"),
        "kept": ", ".join(cell["method"] for cell in cells),
    }


if __name__ == "__main__":
    main()
