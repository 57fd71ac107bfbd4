"""Several frozen backbones fused, beside each of them alone: test accuracy, several data sets and seeds.

    python benchmarks/fuse.py flowers5.zip trashnet6.zip \
        --member torchvision/mobilenet_v2=mobilenet_v2.pth --member torchvision/squeezenet1_1=squeezenet1_1.pth

Every cell is one `zoo finetune --cascade fuse`, which probes each backbone alone, too. Finished cells are kept in
--cells: a benchmark that was cut off goes on.
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


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--member", action="append", required=True, help="BACKBONE=FILE, several times")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=Path, help="a file of finished cells, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = []
    for data in arguments.data:
        cells = []
        for seed in range(arguments.seeds):
            key = {"data": Path(data).name, "seed": seed, "members": arguments.member}
            cell = next((cell for cell in done if key.items() <= cell.items()), None)
            if cell is None:
                cell = {**key, **_fuse(data, seed, arguments.member)}
                with log.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
            cells.append(cell)
        rows.append(_row(Path(data).name, cells))
        report(rows[-1:], None)
    report(rows, arguments.out)


def _fuse(data: str, seed: int, members: list[str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "zoo_cli", "finetune", data, "--cascade", "fuse", "--seed", str(seed), "--json"]
    for member in members:
        backbone, _, weights = member.partition("=")
        words += ["--backbone", backbone, "--weights", weights]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*words, "--out", f"{folder}/run"], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    return {name: result[name] for name in ("method", "test_accuracy", "test_ece", "probes", "methods", "seconds")}


def _row(data: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    fused = [cell["test_accuracy"] for cell in cells]
    alone = [[probe["test_accuracy"] for probe in cell["probes"]] for cell in cells]
    names = [probe["backbone"].rpartition("/")[2] for probe in cells[0]["probes"]]
    gains = [100 * (value - max(each)) for value, each in zip(fused, alone, strict=True)]
    return {
        "data": data,
        "seeds": len(cells),
        **{name: statistics.mean(values) for name, values in zip(names, zip(*alone, strict=True), strict=True)},
        "fused": statistics.mean(fused),
        "points above the better one": statistics.mean(gains),
        "of each seed": ", ".join(f"{gain:.1f}" for gain in gains),
        "kept": ", ".join(cell["method"] for cell in cells),
        "ECE": statistics.mean(cell["test_ece"] for cell in cells),
    }


if __name__ == "__main__":
    main()
