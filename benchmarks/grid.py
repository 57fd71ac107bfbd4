"""Every backbone with every strategy on every data set: the cells that `benchmarks/regret.py` judges choices by.

    python benchmarks/grid.py SHARED --cells benchmarks/grid.jsonl --cache CACHE --data flowers5 --data digits

SHARED holds `data/*.zip` and `weights/*.pth`. Cells are appended to a file of JSON lines as they are finished; those
that are there are not measured again, so that a grid that was cut off goes on, and its parts can be measured by several
processes, of one thread each. A cell is one training with a small budget, the same for all: 200 steps (400 from
scratch), and 128 x 128 pixels for networks that were pretrained at 224. Where a class has too few images for a slice,
the cell says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zoo.artifacts.files import read_json, sha256_file, write_json
from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.catalogue.results import Result, add_results
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import labels
from zoo.errors import ZooError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent

Cell = dict[str, Any]
DATA_SETS = ("flowers5", "trashnet6", "sign_digits10", "bccd_cells3", "aerial_patches5", "digits")
SHOTS = (5, 20, 100, None)
WEIGHTS = {
    "torchvision/squeezenet1_1": "squeezenet1_1-dc19ae52.pth",
    "torchvision/mobilenet_v2": "mobilenet_v2-4b92a41a.pth",
    "cifar/resnet20": "cifar10_resnet20-52531237.pth",
    "cifar/resnet56": "cifar10_resnet56-b0110680.pth",
    "tiny/glyphnet": None,
}
STRATEGIES = ("probe", "multi-tap", "partial", "lp-ft", "scratch")
STEPS = 200
SMALLER = 128
"""Pixels for backbones that were pretrained at 224."""
TAG = "shared"
"""Of the pretrained sets whose files are in SHARED."""
AS_RECORDED = {"multi-tap": "probe", "partial": "partial", "lp-ft": "lp-ft", "full": "full", "scratch": "scratch"}
"""Strategies of the grid as registries know them; a probe sees the taps that help."""
_LARGE = "torchvision/"
BASELINE = {"backbone": "torchvision/mobilenet_v2", "strategy": "full"}
"""Measured, too, as a rule of thumb: the best on ImageNet, all of it trained. It is no part of the grid."""
FEW = 10
"""Of fewer images per class a fifth is held out, too, or nothing could be chosen by validation."""


def environment(shared: Path, cache: Path) -> Environment:
    """The installed plugins, `cifar` among them, whose weights are the files in `shared`."""
    known = Catalogue.installed()
    return Environment(catalogue=Catalogue.installed(None, [_registry(known, shared / "weights")]), cache=cache)


def _registry(known: Catalogue, folder: Path) -> dict[str, Any]:
    """A registry that names the files in `folder` as one more pretrained set of their backbones."""
    backbones = []
    for name, file in WEIGHTS.items():
        if file is not None:
            entry, _ = known.find_backbone(name)
            path = (folder / file).resolve()
            facts = {"tag": TAG, "url": path.as_uri(), "sha256": sha256_file(path), "file_name": file}
            weights = {**asdict(entry.spec.weights[0]), **facts}
            if name.startswith(_LARGE):
                weights["input"] |= {"height": SMALLER, "width": SMALLER}
            backbones.append({"id": entry.id, "weights": [json.loads(json.dumps(weights))]})
    return {"schema": 1, "plugins": [], "backbones": backbones}


def request(
    data: str, backbone: str, strategy: str, shots: int | None, seed: int, train_images: int
) -> FinetuneRequest:
    """One cell as a request."""
    options: dict[str, Any] = {"strategy": strategy}
    if strategy in ("probe", "multi-tap"):
        options = {"strategy": "probe", "taps": 0 if strategy == "probe" else None}
    else:
        per_epoch = max(1, -(-train_images // 32))
        options["epochs"] = -(-STEPS * (2 if strategy == "scratch" else 1) // per_epoch)
    if strategy == "scratch":
        options["input_size"] = SMALLER if backbone.startswith(_LARGE) else None
    elif WEIGHTS[backbone]:
        backbone += f"@{TAG}"
    return FinetuneRequest(data=data, backbone=backbone, seed=seed, **budget(shots), **options)


def budget(shots: int | None) -> dict[str, Any]:
    """What is the same for all cells of a slice."""
    share = 0.2 if shots is not None and shots < FEW else None
    return {"device": "cpu", "threads": 1, "shots": shots, "val_share": share, "checkpoint_seconds": 1e9}


def measure(asked: FinetuneRequest, around: Environment, data: DataSet) -> dict[str, Any]:
    """What one training comes to: accuracies, the validation loss, seconds and those of the processors."""
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.perf_counter(), processor_seconds()
        result = finetune(asked, Path(folder) / "run", around, Silent())
        cost = {"seconds": time.perf_counter() - began, "cpu_seconds": processor_seconds() - used}
        said = RunFolder(Path(folder) / "run").read_predictions()["val"]
    truth = labels(data.of("val"))
    loss = -float(np.log(np.maximum(said[np.arange(len(truth)), truth], 1e-9)).mean()) if len(truth) else None
    kept = {name: result[name] for name in ("val_accuracy", "test_accuracy", "steps", "train_images")}
    images = {"classes": len(data.classes), "images": len(data.of("train")) + len(data.of("val"))}
    return {**images, **kept, "val_loss": loss, **{name: round(value, 2) for name, value in cost.items()}}


def measured(name: dict[str, Any], known: Path, shared: Path, around: Environment) -> Cell:
    """The cell of that name in the file `known`, where it is appended unless it is there."""
    for cell in read(known):
        if name.items() <= cell.items():
            return cell
    asked = source(name["data"], shared)
    split = {key: budget(name["shots"])[key] for key in ("shots", "val_share")}
    try:
        data = open_dataset(asked, cache=around.cache, progress=Silent(), seed=name["seed"], **split)
        facts = measure(request(**name | {"data": asked}, train_images=len(data.of("train"))), around, data)
    except ZooError as error:
        facts = {"error": str(error)}
    with known.open("a") as file:
        file.write(json.dumps(name | facts) + "\n")
    print(name, facts, file=sys.stderr)
    return name | facts


def processor_seconds() -> float:
    """What this process has used of processors so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cells(data_sets: Sequence[str], seeds: int) -> Iterator[dict[str, Any]]:
    """The names of all cells; those from scratch, which take most of the time, last."""
    ways = [*({"backbone": b, "strategy": s} for s in STRATEGIES for b in WEIGHTS), BASELINE]
    for seed in range(seeds):
        for last in (False, True):
            for data, shots in itertools.product(data_sets, SHOTS):
                for way in ways:
                    if (way["strategy"] == "scratch") == last:
                        yield {"data": data, "shots": shots, **way, "seed": seed}


def read(path: Path) -> list[Cell]:
    """The cells that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids(known: Catalogue, *, tag: str | None = None) -> dict[str, str]:
    """The backbones with their pretrained sets: those of files under `tag`, or under their plugins' where None."""
    own = {name: known.find_backbone(name)[0].spec.weights[0].tag for name in WEIGHTS}
    return {name: f"{name}@{tag if tag and WEIGHTS[name] else own[name]}" for name in WEIGHTS}


def results(cells: Sequence[Cell], ids: Mapping[str, str]) -> list[Result]:
    """The cells as a registry records them."""
    return [
        Result(
            data=cell["data"],
            classes=cell["classes"],
            train_images=cell["images"],
            backbone=ids[cell["backbone"]],
            strategy=AS_RECORDED[cell["strategy"]],
            test_accuracy=round(cell["test_accuracy"], 4),
            seconds=cell["seconds"],
        )
        for cell in cells
        if cell["strategy"] in AS_RECORDED and "error" not in cell
    ]


def source(data: str, shared: Path) -> str:
    """The data set of that name as an argument of the command line."""
    return "builtin:digits" if data == "digits" else str(shared / "data" / f"{data}.zip")


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--data", action="append", help=f"names of data sets (default: {', '.join(DATA_SETS)})")
    parser.add_argument("--only", action="append", help="only these backbones, strategies, slices")
    parser.add_argument("--skip", action="append", default=[], help="none of these")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, required=True, help="features are kept here")
    parser.add_argument("--registry", type=Path, help="only record the cells that are there in this file")
    arguments = parser.parse_args()
    around = environment(arguments.shared, arguments.cache)
    if arguments.registry:
        found = results([cell for cell in read(arguments.cells) if cell["seed"] == 0], ids(around.catalogue))
        write_json(arguments.registry, add_results(read_json(arguments.registry), found))
        return
    for name in cells(arguments.data or DATA_SETS, arguments.seeds):
        words = {str(value) for value in name.values()}
        if (arguments.only and not words & set(arguments.only)) or words & set(arguments.skip):
            continue
        measured(name, arguments.cells, arguments.shared, around)


if __name__ == "__main__":
    main()
