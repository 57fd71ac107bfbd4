"""A denoiser before a classifier, on noisy photographs: test accuracy of probes with and without it, several seeds.

    python benchmarks/denoise.py flowers5.zip --weights mobilenet_v2.pth

The photographs are cut to --size first and get their noise then: scaling down would take most of it off. `alone` is the
backbone on what is there, `denoised` is `tiny/denoise` before it, `blurred` is the backbone on images that a Gaussian
blur has gone over, its radius being the one of the best PSNR on training images. Rows tell on which images the head was
fitted and which it is asked about. Finished cells are kept in --cells: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from reporting import report
from zoo_tiny._train_denoise import add_noise, denoised, psnr

from zoo.catalogue import Catalogue
from zoo.catalogue.weights import fetch_weights
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.nn.weights import load_into
from zoo.progress import Silent

STRENGTHS = (25, 50)
"""Standard deviations of the noise, of 255."""
_RADII = (0.5, 0.7, 0.9, 1.1, 1.4, 1.7, 2.0)
_DENOISER = "tiny/denoise"
_JUDGED = 100


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="torchvision/mobilenet_v2")
    parser.add_argument("--weights", required=True, help="those of the backbone")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--shots", type=int, default=100, help="training images of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=Path, help="a file of finished cells, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    settings = {name: getattr(arguments, name) for name in ("backbone", "size", "shots")}
    cells = []
    for seed in range(arguments.seeds):
        key = {"data": Path(arguments.data).name, "seed": seed, **settings}
        cell = next((cell for cell in done if key.items() <= cell.items()), None)
        if cell is None:
            with tempfile.TemporaryDirectory() as folder:
                cell = {**key, **_measure(arguments, seed, Path(folder))}
            with log.open("a") as file:
                file.write(json.dumps(cell) + "\n")
        cells.append(cell)
    report([_row(cells, "accuracy", case) for case in cells[0]["accuracy"]], arguments.out)
    report([_row(cells, "psnr", case) for case in cells[0]["psnr"]], None)


def _measure(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """Accuracies and PSNR, by case and by way."""
    pictures = _pictures(arguments.data, arguments.size, arguments.shots, seed)
    clean = [pixels for _, pixels in pictures]
    judged = random.Random(seed).sample(range(len(clean)), _JUDGED)
    _write(folder / "clean", pictures, clean)
    found: dict[str, dict[str, float]] = {}
    quality = {"clean": _quality([clean[number] for number in judged], [clean[number] for number in judged])}
    for strength in STRENGTHS:
        randomness = torch.Generator().manual_seed(1000 * seed + strength)
        noisy = [_noisy(pixels, strength, randomness) for pixels in clean]
        training = [number for number, (name, _) in enumerate(pictures) if name.startswith("train/")]
        radius = _best_radius(noisy, clean, random.Random(seed).sample(training, _JUDGED))
        _write(folder / f"noisy {strength}", pictures, noisy)
        _write(folder / f"blurred {strength}", pictures, [_blurred(pixels, radius) for pixels in noisy])
        quality[f"noise {strength}"] = {
            **_quality([noisy[number] for number in judged], [clean[number] for number in judged]),
            "blurred": _blur_quality(noisy, clean, judged, radius),
        }
    ways = {"alone": (arguments.backbone,), "denoised": (_DENOISER, arguments.backbone)}
    for way, backbones in ways.items():
        run = folder / f"run {way}"
        row = found.setdefault("clean, asked about clean", {})
        row[way] = _probe(folder / "clean", backbones, arguments, run, seed)
        for strength in STRENGTHS:
            row = found.setdefault(f"clean, asked about noise {strength}", {})
            row[way] = _asked(run, folder / f"noisy {strength}")
            if way == "alone":
                row["blurred"] = _asked(run, folder / f"blurred {strength}")
    for strength in STRENGTHS:
        row = found.setdefault(f"noise {strength}, asked about noise {strength}", {})
        for way, backbones in ways.items():
            out = folder / f"run {way} {strength}"
            row[way] = _probe(folder / f"noisy {strength}", backbones, arguments, out, seed)
        out = folder / f"run blurred {strength}"
        row["blurred"] = _probe(folder / f"blurred {strength}", ways["alone"], arguments, out, seed)
    return {"accuracy": found, "psnr": quality}


def _pictures(data: str, size: int, shots: int, seed: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """`split/class/number` and pixels [size, size, 3] of all test images and so many training images per class."""
    with tempfile.TemporaryDirectory() as cache:
        dataset = open_dataset(data, cache=Path(cache), progress=Silent(), seed=seed)
        store, choice, found = ImageStore(dataset), random.Random(seed), []
        for split in ("train", "test"):
            for label, name in enumerate(dataset.classes):
                samples = [sample for sample in dataset.of(split) if sample.label == label]
                if split == "train":
                    samples = choice.sample(samples, min(shots, len(samples)))
                for number, sample in enumerate(samples):
                    picture = Image.fromarray(np.asarray(store.pixels(sample)))
                    cut = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
                    found.append((f"{split}/{name}/{number:04d}.png", np.asarray(cut)))
    return found


def _write(folder: Path, pictures: Sequence[tuple[str, Any]], images: Sequence[NDArray[np.uint8]]) -> None:
    for (name, _), pixels in zip(pictures, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def _noisy(pixels: NDArray[np.uint8], strength: int, randomness: torch.Generator) -> NDArray[np.uint8]:
    noisy = add_noise(torch.from_numpy(pixels.copy()) / 255, strength / 255, randomness)
    return np.asarray((noisy * 255).round().to(torch.uint8).numpy())


def _blurred(pixels: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _best_radius(noisy: Sequence[NDArray[np.uint8]], clean: Sequence[NDArray[np.uint8]], which: Sequence[int]) -> float:
    return max(_RADII, key=lambda each: _blur_quality(noisy, clean, which, each))


def _blur_quality(
    noisy: Sequence[NDArray[np.uint8]], clean: Sequence[NDArray[np.uint8]], which: Sequence[int], radius: float
) -> float:
    return psnr(_stack([_blurred(noisy[number], radius) for number in which]), _stack([clean[n] for n in which]))


def _quality(given: Sequence[NDArray[np.uint8]], clean: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """PSNR in dB before and after the denoiser; clean images have none before."""
    spec = Catalogue.installed().find_backbone(_DENOISER)[0].spec
    network: Any = spec.build()
    with tempfile.TemporaryDirectory() as cache:
        load_into(network, fetch_weights(spec.weights[0], Path(cache), progress=Silent()), spec.name)
    pixels, truth = _stack(given), _stack(clean)
    before = {} if torch.equal(pixels, truth) else {"alone": psnr(pixels, truth)}
    return {**before, "denoised": psnr(denoised(network.eval(), pixels), truth)}


def _stack(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _probe(data: Path, backbones: Sequence[str], arguments: argparse.Namespace, out: Path, seed: int) -> float:
    """The test accuracy of a probe, whose run is `out`."""
    words = ["finetune", data, "--strategy", "probe", "--seed", seed, "--input-size", arguments.size, "--out", out]
    words += ["--backbone", " -> ".join(backbones)]
    words += ["--weights", " -> ".join("leaves_v1" if each == _DENOISER else arguments.weights for each in backbones)]
    return float(_zoo(*words)["test_accuracy"])


def _asked(run: Path, data: Path) -> float:
    return float(_zoo("evaluate", run, data)["accuracy"])


def _zoo(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "zoo_cli", *map(str, words), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _row(cells: Sequence[dict[str, Any]], what: str, case: str) -> dict[str, Any]:
    ways = [way for way in ("alone", "denoised", "blurred") if way in cells[0][what][case]]
    each = {way: [cell[what][case][way] for cell in cells] for way in ways}
    means = {way: statistics.mean(values) for way, values in each.items()}
    row: dict[str, Any] = {"head fitted on" if what == "accuracy" else "PSNR in dB": case, "seeds": len(cells)}
    row |= {way: means.get(way) for way in ("alone", "denoised", "blurred")}
    if what == "accuracy":
        gains = [100 * (after - before) for before, after in zip(each["alone"], each["denoised"], strict=True)]
        row |= {"points gained": statistics.mean(gains), "of each seed": ", ".join(f"{gain:.1f}" for gain in gains)}
    return row


if __name__ == "__main__":
    main()
