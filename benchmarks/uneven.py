"""Classes with 240 down to 5 training images, with and without --balance.

    python benchmarks/uneven.py flowers5.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

Which class has how many is drawn anew for each seed; the numbers fall by the same factor from class to class. The test
images are those of the data set, as many of each class.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from commands import finetune
from reporting import report
from sklearn.metrics import balanced_accuracy_score, f1_score

from zoo.data.source import Listing, list_source

_MOST, _FEWEST = 240, 5
_RUNS = {
    "probe": ("--strategy", "probe"),
    "partial": ("--strategy", "partial", "--freeze-stages", "3", "--epochs", "10", "--patience", "0"),
}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--only", help="only this strategy", choices=sorted(_RUNS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        listing = list_source(arguments.data, cache)
        for name, words in _RUNS.items():
            if arguments.only not in (None, name):
                continue
            for options in ((), ("--balance",)):
                f1, recall = [], []
                for seed in range(arguments.seeds):
                    run = Path(folder) / f"{name}-{len(options)}-{seed}"
                    table = _uneven(listing, Path(folder) / f"{seed}.csv", seed)
                    command = [str(table), "--backbone", arguments.backbone, "--weights", arguments.weights]
                    finetune([*command, *words, *options, "--seed", str(seed)], cache, out=run)
                    data = json.loads((run / "dataset.json").read_text())
                    truth = [sample["label"] for sample in data["samples"] if sample["split"] == "test"]
                    with np.load(run / "predictions.npz") as predictions:
                        called = predictions["test"].argmax(1)
                    f1.append(float(f1_score(truth, called, average="macro")))
                    recall.append(float(balanced_accuracy_score(truth, called)))
                rows.append(
                    {
                        "way": " ".join((name, *options)),
                        "seeds": arguments.seeds,
                        "macro F1": statistics.mean(f1),
                        "sd": statistics.stdev(f1),
                        "balanced accuracy": statistics.mean(recall),
                    }
                )
    report(rows, arguments.out)


def _uneven(listing: Listing, table: Path, seed: int) -> Path:
    chosen = random.Random(seed)
    by_class = defaultdict(list)
    for file in listing.files:
        by_class[file.label, file.split].append(file.file)
    labels = sorted({label for label, _ in by_class})
    chosen.shuffle(labels)
    with table.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label", "split"])
        for number, label in enumerate(labels):
            count = round(_MOST * (_FEWEST / _MOST) ** (number / (len(labels) - 1)))
            train = chosen.sample(sorted(by_class[label, "train"]), count)
            for split, files in (("train", train), ("test", by_class[label, "test"])):
                writer.writerows([listing.root / file, label, split] for file in files)
    return table


if __name__ == "__main__":
    main()
