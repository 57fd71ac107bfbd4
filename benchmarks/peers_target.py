"""Zoo as one more target of a benchmark that compares tools: its split in, predictions of the test images out.

Called by `peers.py` as `peers_target.py --data DIR --weights FILE --arch NAME --split FILE --out DIR --seed N --batch N
--threads N [options of zoo finetune]`. Nothing of earlier runs is in its caches.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Fine-tunes on the images of the split and writes `preds.json`: file -> class."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "weights", "split", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("arch", "seed", "batch", "threads"):
        parser.add_argument(f"--{name}", required=True)
    arguments, options = parser.parse_known_args()
    split = json.loads(arguments.split.read_text())
    table = arguments.out / "split.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for part in ("train", "val", "test"):
            writer.writerows([arguments.data / image, label, part] for image, label in split[part])
    run = arguments.out / "run"
    command = [
        *(sys.executable, "-m", "zoo_cli", "finetune", table, "--backbone", f"torchvision/{arguments.arch}"),
        *("--weights", arguments.weights, "--seed", arguments.seed, "--batch-size", arguments.batch),
        *("--threads", arguments.threads, "--device", "cpu", "--out", run, *options),
    ]
    environ = {**os.environ, "ZOO_CACHE": str(arguments.out / "cache")}
    subprocess.run([str(word) for word in command], check=True, env=environ)
    data = json.loads((run / "dataset.json").read_text())
    files = [sample["file"] for sample in data["samples"] if sample["split"] == "test"]
    with np.load(run / "predictions.npz") as predictions:
        called = [data["classes"][label] for label in predictions["test"].argmax(1)]
    named = {str(arguments.data / image): image for image, _ in split["test"]}
    found = {named[str(Path(data["root"]) / file)]: label for file, label in zip(files, called, strict=True)}
    (arguments.out / "preds.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
