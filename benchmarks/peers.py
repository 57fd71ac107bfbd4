"""Time to accuracy beside other tools, in one run on one machine.

    python benchmarks/peers.py finetune_bench --data flowers5 --weights mobilenet_v2.pth \\
        --python torch=... --python fastai=... --python lightning=... --python ultralytics=...

`finetune_bench` is a folder of targets, one program per tool, with the `run.py` that times and scores them; Zoo is
added to a copy of it as one more target. Every row is a process of its own, with its imports and its reading of images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting import report

_SLOTS = ("data", "weights", "arch", "split", "out", "seed", "batch", "threads")
_ROWS: dict[str, tuple[str, ...]] = {
    "by hand: features and logistic regression": ("expert-ort",),
    "torch, frozen, 3 epochs": ("torch-frozen", "--epochs", "3"),
    "timm, frozen, 3 epochs": ("timm-frozen", "--epochs", "3"),
    "fastai, frozen, 3 epochs": ("fastai", "--frozen", "3", "--tune", "0"),
    "finetuning-scheduler, frozen, 3 epochs": ("lightning-fts", "--frozen", "3", "--tune", "0"),
    "Ultralytics, frozen, 3 epochs": ("ultralytics", "--frozen", "3", "--tune", "0"),
    "torch, full, 5 epochs": ("torch-full", "--epochs", "5"),
    "timm, full, 5 epochs": ("timm-frozen", "--mode", "full", "--epochs", "5"),
    "fastai, 1 + 4 epochs": ("fastai", "--frozen", "0", "--tune", "4"),
    "finetuning-scheduler, 1 + 4 epochs": ("lightning-fts", "--frozen", "1", "--tune", "4"),
    "Ultralytics, full, 5 epochs": ("ultralytics", "--tune", "5"),
    "timm, frozen, 20 epochs": ("timm-frozen", "--epochs", "20"),
    "fastai, frozen, 20 epochs": ("fastai", "--frozen", "20", "--tune", "0"),
    "finetuning-scheduler, frozen, 20 epochs": ("lightning-fts", "--frozen", "20", "--tune", "0"),
    "Ultralytics, frozen, 20 epochs": ("ultralytics", "--frozen", "20", "--tune", "0"),
    "zoo probe": ("zoo", "--strategy", "probe"),
    "zoo probe, 2 views": ("zoo", "--strategy", "probe", "--views", "2"),
    "zoo probe, 5 views": ("zoo", "--strategy", "probe", "--views", "5"),
    "zoo, no option": ("zoo",),
    "zoo, 5 epochs": ("zoo", "--epochs", "5", "--patience", "0"),
}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--python", action="append", default=[], help="ENV=INTERPRETER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="only rows whose name contains this")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Path(folder) / "bench"
        shutil.copytree(arguments.bench, bench, copy_function=shutil.copyfile)
        bench.chmod(0o755)
        _add_zoo(bench)
        log = arguments.cells or Path(folder) / "cells.jsonl"
        for way, (target, *options) in _ROWS.items():
            if arguments.only and arguments.only not in way:
                continue
            cells = [
                _cell(bench, log, arguments, {"label": way, "target": target, "seed": seed}, options)
                for seed in arguments.seeds
            ]
            rows.append(_row(way, cells))
            report(rows[-1:], None)
    report(rows, arguments.out)


def _add_zoo(bench: Path) -> None:
    targets = json.loads((bench / "targets.json").read_text())
    own = Path(__file__).resolve().with_name("peers_target.py")
    slots = [word for name in _SLOTS for word in (f"--{name}", f"{{{name}}}")]
    targets["zoo"] = {"env": "zoo", "argv": [sys.executable, str(own), *slots]}
    (bench / "targets.json").unlink()
    (bench / "targets.json").write_text(json.dumps(targets))


def _cell(
    bench: Path, log: Path, arguments: argparse.Namespace, name: dict[str, Any], options: list[str]
) -> dict[str, Any]:
    """One finished row of the log, run now where it is not there yet."""
    name = {**name, "data": Path(arguments.data).name, "arch": arguments.arch, "threads": arguments.threads}
    for _ in range(2):
        done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        for cell in done:
            if name.items() <= cell.items() and cell["rc"] == 0:
                found: dict[str, Any] = cell
                return found
        words = [word for python in arguments.python for word in ("--python", python)]
        command = [
            *(sys.executable, str(bench / "run.py"), "--data", arguments.data, "--weights", arguments.weights),
            *("--arch", arguments.arch, "--target", name["target"], "--label", name["label"]),
            *("--seed", str(name["seed"]), "--threads", str(name["threads"]), "--results", str(log.resolve())),
            *(*words, "--", *options),
        ]
        subprocess.run(command, check=True)
    raise AssertionError(f"no result of {name} in {log}")


def _row(way: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "way": way,
        "seeds": len(cells),
        "test accuracy": statistics.mean(cell["test_acc"] for cell in cells),
        "seconds in all": round(statistics.mean(cell["wall_s"] for cell in cells), 1),
        "processor seconds": round(statistics.mean(cell["cpu_s"] for cell in cells), 1),
        "stolen seconds": round(statistics.mean(cell["steal_s"] for cell in cells), 1),
        "peak MiB": round(statistics.mean(cell["peak_rss_mib"] for cell in cells)),
    }


if __name__ == "__main__":
    main()
