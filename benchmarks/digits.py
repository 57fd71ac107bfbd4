"""Transfer against scratch on a few digits: higher start, higher slope, higher asymptote.

    python benchmarks/digits.py --shots 3

`zoo_tiny`, pretrained on letters, fine-tuned (lp-ft) on `builtin:digits`, against the same network from scratch and
against logistic regression on the pixels. Scratch gets the best of six settings, chosen on the test set in its favour.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from reporting import report
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.images import decode_image
from zoo.data.splits import open_dataset
from zoo.finetune.curves import LearningCurve
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent

RATES = (1e-3, 3e-3, 1e-2)
AUGMENTATIONS = ("affine", "none")
TRANSFER: dict[str, Any] = {"strategy": "lp-ft", "lr": 1e-3}
LEVEL = 0.9


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, required=True, help="labelled images per class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--grid-seeds", type=int, default=2, help="seeds to choose the settings of scratch by")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Digits(Path(folder), arguments.shots)
        grid = {
            (lr, augment): mean(
                bench.train(seed, strategy="scratch", lr=lr, augment=augment)[0] for seed in range(arguments.grid_seeds)
            )
            for lr, augment in itertools.product(RATES, AUGMENTATIONS)
        }
        for (lr, augment), accuracy in grid.items():
            print(f"scratch, lr {lr:g}, augmentation {augment}: {accuracy:.3f}", file=sys.stderr)
        lr, augment = max(grid, key=lambda key: grid[key])
        settings: dict[str, dict[str, Any]] = {
            "transfer (lp-ft)": TRANSFER,
            "transfer (probe)": {"strategy": "probe"},
            f"scratch (lr {lr:g}, {augment})": {"strategy": "scratch", "lr": lr, "augment": augment},
        }
        rows = [bench.row(name, range(arguments.seeds), **options) for name, options in settings.items()]
        pixels = [bench.pixels(seed) for seed in range(arguments.seeds)]
        rows.append({**dict.fromkeys(rows[0]), "way": "logistic regression on pixels", **_spread(pixels)})
    report(rows, arguments.out)


class Digits:
    """Trainings on so many digits per class, one thread, in a folder of their own."""

    def __init__(self, folder: Path, shots: int) -> None:
        self._folder = folder
        self._shots = shots
        self._environment = Environment(catalogue=Catalogue.installed({"tiny", "heads"}), cache=folder / "cache")

    def train(self, seed: int, **options: Any) -> tuple[float, LearningCurve]:
        """Test accuracy of one run and, where it takes steps and was tracked, its learning curve."""
        request = FinetuneRequest(
            data="builtin:digits",
            backbone="tiny/glyphnet",
            shots=self._shots,
            val_share=0.0,
            seed=seed,
            device="cpu",
            threads=1,
            **options,
        )
        run = self._folder / "run"
        result = finetune(request, run, self._environment, Silent())
        curve = LearningCurve.from_metrics(RunFolder.open(run).read_metrics())
        shutil.rmtree(run)
        return result["test_accuracy"], curve

    def row(self, name: str, seeds: range, **options: Any) -> dict[str, Any]:
        """Means over seeds, as a row of the table."""
        found = [self.train(seed, track_test=True, **options) for seed in seeds]
        print(f"{name}: {[round(accuracy, 3) for accuracy, _ in found]}", file=sys.stderr)
        curves = [curve for _, curve in found if curve.steps]
        steps = [curve.steps_to(LEVEL) for curve in curves]
        reached = [step for step in steps if step is not None]
        return {
            "way": name,
            **_spread([accuracy for accuracy, _ in found]),
            "start": mean(curve.start for curve in curves) if curves else None,
            f"steps to {LEVEL:.0%}": mean(reached) if len(reached) == len(steps) and steps else None,
            "seeds that reach it": f"{len(reached)} of {len(steps)}" if steps else None,
            "steps in all": curves[0].steps[-1] if curves else 0,
        }

    def pixels(self, seed: int) -> float:
        """Test accuracy of logistic regression on the 64 grey levels, its strength chosen by cross validation."""
        data = open_dataset(
            "builtin:digits",
            cache=self._environment.cache,
            progress=Silent(),
            seed=seed,
            shots=self._shots,
            val_share=0.0,
        )
        table = {
            split: (
                np.stack([decode_image(data.path(sample))[..., 0].ravel() / 255 for sample in data.of(split)]),
                [sample.label for sample in data.of(split)],
            )
            for split in ("train", "test")
        }
        folds = min(5, self._shots)
        strengths = {"C": np.logspace(-3, 3, 13)}
        model = GridSearchCV(LogisticRegression(max_iter=2000), strengths, cv=folds)
        return float(model.fit(*table["train"]).score(*table["test"]))


def _spread(values: list[float]) -> dict[str, float]:
    return {"test accuracy": mean(values), "standard deviation": stdev(values)}


if __name__ == "__main__":
    main()
