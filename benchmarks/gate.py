"""A gated cascade beside its bigger model alone: accuracy, mean latency, and how often its promise is broken.

    python benchmarks/gate.py trashnet6.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

Two runs of one backbone at two input sizes, trained by `zoo finetune`; `zoo cascade gate` for each --max-loss, each
exported. Latencies are means over all test images in ONNX Runtime on one thread, all models in turn. For the re-splits,
the images that no run was trained on are halved at random: one half chooses, on the other half the loss against the
bigger model is counted. Finished runs in --work are kept: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from reporting import report

from zoo.artifacts.manifest import EXIT, INPUT, OUTPUT
from zoo.artifacts.runs import RunFolder
from zoo.cascade.promise import walk
from zoo.data.dataset import DataSet
from zoo.data.images import decode_image
from zoo.errors import ZooError
from zoo.runtime.model import OnnxModel

_SIDE = 256
"""Images of one batch have one size."""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", help="a file, where the backbone does not ship its own")
    parser.add_argument("--sizes", type=int, nargs=2, default=(128, 224), help="input sizes of the two runs")
    parser.add_argument("--val-share", default="0.4")
    parser.add_argument("--max-loss", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--work", type=Path, required=True, help="the folder of runs and exported models")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    runs = [_train(arguments, size) for size in arguments.sizes]
    models = {f"{size} px alone": _export(run) for size, run in zip(arguments.sizes, runs, strict=True)}
    gates = {}
    for loss in arguments.max_loss:
        out = arguments.work / f"gate-{loss:g}"
        if not out.exists():
            done = _zoo("cascade", "gate", *runs, arguments.data, "--max-loss", loss, "--out", out, check=False)
            if done:
                continue
        gates[f"gate, promise {loss:g}"] = _export(out)
    data = DataSet.from_json(RunFolder.open_complete(runs[0]).read("dataset"))
    test = data.of("test")
    images = np.stack(
        [np.asarray(ImageOps.fit(Image.fromarray(decode_image(data.path(sample))), (_SIDE, _SIDE))) for sample in test]
    )
    truth = np.array([sample.label for sample in test])
    rows = _latencies({**models, **gates}, images, truth)
    report(rows, arguments.out)
    resplits = [_resplits(runs, data, loss, arguments.splits) for loss in arguments.max_loss]
    report(resplits, arguments.out and arguments.out.with_suffix(".resplits.json"))


def _zoo(*words: object, check: bool = True) -> int:
    print("$ zoo", *words, flush=True)
    return subprocess.run([sys.executable, "-m", "zoo_cli", *map(str, words)], check=check).returncode


def _train(arguments: argparse.Namespace, size: int) -> Path:
    out: Path = arguments.work / f"run-{size}"
    if (out / "result.json").is_file():
        return out
    weights = ["--weights", arguments.weights] if arguments.weights else []
    _zoo(
        *("finetune", arguments.data, "--backbone", arguments.backbone, *weights, "--input-size", size),
        *("--strategy", "partial", "--val-share", arguments.val_share, "--seed", arguments.seed, "--out", out),
    )
    return out


def _export(run: Path) -> Path:
    out = run.with_suffix(".onnx")
    if not out.exists():
        _zoo("export", run, "-o", out)
    return out


def _latencies(paths: dict[str, Path], images: NDArray[np.uint8], truth: NDArray[Any]) -> list[dict[str, Any]]:
    models = {name: OnnxModel(path, device="cpu", threads=1) for name, path in paths.items()}
    seconds = {(name, batch): 0.0 for name in models for batch in (1, 32)}
    answers: dict[str, list[Any]] = {name: [] for name in models}
    exits: dict[str, list[Any]] = {name: [] for name in models}
    for model in models.values():
        model.run({INPUT: images[:2]})
    for batch in (1, 32):
        for start in range(0, len(images), batch):
            for name, model in models.items():
                outputs = [OUTPUT] + ([EXIT] if len(model.outputs) > 1 else [])
                began = time.perf_counter()
                found = model.run({INPUT: images[start : start + batch]}, outputs)
                seconds[name, batch] += time.perf_counter() - began
                if batch == 1:
                    answers[name].append(found[0])
                    exits[name] += [found[1]] if len(found) > 1 else []
    big = [*paths][1]
    rows = []
    for name in models:
        right = np.concatenate(answers[name]).argmax(1) == truth
        row: dict[str, Any] = {"model": name, "test accuracy": float(right.mean())}
        row["stop at the first"] = float((np.concatenate(exits[name]) == 0).mean()) if exits[name] else None
        for batch in (1, 32):
            row[f"ms per image, batch {batch}"] = round(1e3 * seconds[name, batch] / len(images), 2)
            row[f"times as fast, batch {batch}"] = round(seconds[big, batch] / seconds[name, batch], 2)
        rows.append(row)
    return rows


def _resplits(runs: Sequence[Path], data: DataSet, loss: float, splits: int) -> dict[str, Any]:
    """How often the promise is broken on the half that did not choose, and refused."""
    samples = [*data.of("val"), *data.of("test")]
    truth = np.array([sample.label for sample in samples])
    probabilities = np.stack(
        [
            np.concatenate([RunFolder.open_complete(run).read_predictions()[split] for split in ("val", "test")])
            for run in runs
        ]
    ).astype(np.float64)
    random = np.random.default_rng(0)
    losses, stopped, refused = [], [], 0
    for _ in range(splits):
        order = random.permutation(len(truth))
        choosing, judging = order[: len(order) // 2], order[len(order) // 2 :]
        try:
            steps = walk(probabilities[:, choosing], truth[choosing], max_loss=loss / 100, average=False)
        except ZooError:
            refused += 1
            continue
        answers, exits = steps[-1].gate.follow(probabilities[:, judging])
        big = probabilities[-1, judging].argmax(1) == truth[judging]
        losses.append(100 * float(big.mean() - (answers.argmax(1) == truth[judging]).mean()))
        stopped.append(float((exits == 0).mean()))
    return {
        "promise, points": loss,
        "images that choose": len(truth) // 2,
        "re-splits": splits,
        "refused": refused,
        "broken": float(np.mean(np.array(losses) > loss)) if losses else None,
        "points lost, mean": float(np.mean(losses)) if losses else None,
        "stop at the first": float(np.mean(stopped)) if stopped else None,
    }


if __name__ == "__main__":
    main()
