"""Heads on frozen features with few images per class: logistic regression, which a probe fits, beside ridge regression.

    python benchmarks/heads.py flowers5.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

Both choose their strength of regularisation and their temperature by what is held out of the few images: by cross
validation the one, by exact leave-one-out the other. Test accuracy and calibration error, means over draws.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from reporting import report
from torch import Tensor
from torch.nn import functional as F

from zoo.artifacts.runs import ModelRecord
from zoo.catalogue import Catalogue
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, head_options, resolve
from zoo.metrics import calibration_error
from zoo.nn.batches import Batches
from zoo.nn.build import build_model
from zoo.nn.calibrate import fit_temperature
from zoo.nn.engine import generator, make_fabric
from zoo.nn.inference import features
from zoo.nn.linear import L2_GRID, Labelled, fit_linear, standardise
from zoo.nn.ridge import Spectrum, left_out_scores
from zoo.progress import Silent
from zoo.runtime.threads import available_threads

_SHOTS = (1, 2, 3, 4, 6, 10)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    train, test = _features(arguments)
    rows = [_row(shots, train, test, arguments.draws) for shots in _SHOTS]
    report(rows, arguments.out)


def _features(arguments: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """Embeddings and labels of all images that are not for testing, and of those that are."""
    request = FinetuneRequest(data=arguments.data, backbone=arguments.backbone, weights=arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        resolved = resolve(request, Environment(catalogue=Catalogue.installed(), cache=Path(folder)), Silent())
        data = open_dataset(arguments.data, cache=Path(folder), progress=Silent(), val_share=0.0)
        record: ModelRecord = resolved.record(data.classes, head_options(resolved, request))
        model = build_model(resolved.backbone, resolved.head, record, weights=resolved.weights, seed=0)
        fabric, store = make_fabric("cpu", available_threads()), ImageStore(data)

        def embed(split: Any) -> Labelled:
            batches = Batches(data.of(split), store=store, input_spec=resolved.input, batch_size=32)
            return features(model, batches, fabric=fabric, progress=Silent())

        return embed("train"), embed("test")


def _row(shots: int, train: Labelled, test: Labelled, draws: int) -> dict[str, Any]:
    found = [_logits(_draw(train, shots, draw), test[0], draw) for draw in range(draws)]
    row: dict[str, Any] = {"images per class": shots}
    for way in ("logistic", "ridge"):
        sure = [logits[way].softmax(1).max(1) for logits in found]
        right = [(values.indices == test[1]).numpy() for values in sure]
        row[f"{way}: test accuracy"] = statistics.mean(float(each.mean()) for each in right)
        row[f"{way}: ECE"] = statistics.mean(
            calibration_error(values.values.numpy(), each) for values, each in zip(sure, right, strict=True)
        )
    return row


def _draw(train: Labelled, shots: int, draw: int) -> Labelled:
    rows = []
    for label in train[1].unique():
        members = (train[1] == label).nonzero().flatten()
        rows.append(members[torch.randperm(len(members), generator=generator("draw", draw, int(label)))[:shots]])
    chosen = torch.cat(rows)
    return train[0][chosen], train[1][chosen]


def _logits(few: Labelled, images: Tensor, seed: int) -> dict[str, Tensor]:
    """Logits [N, C] of both heads, fitted on a few samples."""
    classes = int(few[1].max()) + 1
    fit = fit_linear((few[0][:, None], few[1]), None, classes=classes, seed=seed, refit=True, task=_Task())
    return {"logistic": fit.logits(images).float(), "ridge": _ridge(few, images, classes).float()}


def _ridge(few: Labelled, images: Tensor, classes: int) -> Tensor:
    mean, scale = standardise(few[0].double(), [few[0].shape[1]])
    inside, outside = (few[0].double() - mean) / scale, (images.double() - mean) / scale
    gram, targets = inside @ inside.T, F.one_hot(few[1], classes).double()
    strengths = gram.new_tensor(L2_GRID) * inside.shape[1]
    scores = left_out_scores(Spectrum.of_gram(gram), few[1], classes, strengths)
    best = int((scores - targets).square().mean((1, 2)).argmin())
    penalty = len(few[1]) * strengths[best] * torch.eye(len(few[1]), dtype=gram.dtype)
    level = targets.mean(0)
    weights = torch.linalg.solve(gram + penalty, targets - level)
    # One image of each class: nothing right is left out that could tell.
    temperature = fit_temperature(scores[best].float(), few[1]) if len(few[1]) > classes else torch.tensor(0.2)
    found: Tensor = (outside @ inside.T @ weights + level) / temperature
    return found


class _Task:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Nobody waits for it."""


if __name__ == "__main__":
    main()
