"""Two backbones as one, in a chain and side by side, beside each alone: test accuracy, several data sets and seeds.

    python benchmarks/chain.py flowers5.zip trashnet6.zip --input-size 128 \
        --member torchvision/squeezenet1_1=squeezenet1_1.pth --member torchvision/mobilenet_v2=mobilenet_v2.pth

Both orders are chained, each joined where that is measured to be best. Every cell is one `zoo finetune`, as a probe or
without options but --epochs and --patience 0. Finished cells are kept in --cells: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting import report

from zoo.catalogue.composites import ARROW, PLUS


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--member", action="append", required=True, help="BACKBONE=FILE, twice")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5, help="where the backbone is trained")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["probe", "trained"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cells", type=Path, help="a file of finished cells, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    first, second = (member.partition("=")[::2] for member in arguments.member)
    ways = [(ARROW, [first]), (ARROW, [second]), (ARROW, [first, second]), (ARROW, [second, first])]
    ways.append((PLUS, [first, second]))
    trained = ["--epochs", str(arguments.epochs), "--patience", "0"]
    rows = []
    for data in arguments.data:
        for name, options in (("probe", ["--strategy", "probe"]), ("trained", trained)):
            if arguments.only not in (None, name):
                continue
            for sign, way in ways:
                cells = []
                for seed in range(arguments.seeds):
                    words = [*options, "--input-size", str(arguments.input_size), "--seed", str(seed)]
                    backbone, weights = (sign.join(each) for each in zip(*way, strict=True))
                    key = {"data": Path(data).name, "backbones": backbone, "options": words}
                    cell = next((cell for cell in done if key.items() <= cell.items()), None)
                    if cell is None:
                        cell = {**key, **_finetune(data, backbone, weights, words, arguments.threads)}
                        with log.open("a") as file:
                            file.write(json.dumps(cell) + "\n")
                    cells.append(cell)
                rows.append(_row(Path(data).stem, name, cells))
                report(rows[-1:], None)
    report(rows, arguments.out)


def _finetune(data: str, backbone: str, weights: str, options: list[str], threads: int | None) -> dict[str, Any]:
    words = [sys.executable, "-m", "zoo_cli", "finetune", data, *options, "--json"]
    words += ["--backbone", backbone, "--weights", weights]
    words += ["--threads", str(threads)] if threads else []
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*words, "--out", f"{folder}/run"], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    return {name: result[name] for name in ("backbone", "strategy", "test_accuracy", "val_accuracy", "seconds")}


def _row(data: str, name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    found = [cell["test_accuracy"] for cell in cells]
    return {
        "data": data,
        "way": name,
        "backbone": ", ".join(dict.fromkeys(cell["backbone"].replace("torchvision/", "") for cell in cells)),
        "strategy": ", ".join(dict.fromkeys(cell["strategy"] for cell in cells)),
        "test accuracy": statistics.mean(found),
        "of each seed": ", ".join(f"{value:.3f}" for value in found),
        "validation": statistics.mean(cell["val_accuracy"] for cell in cells),
        "seconds": round(statistics.mean(cell["seconds"] for cell in cells)),
    }


if __name__ == "__main__":
    main()
