"""Fine-tuning from the head of a probe against plain full fine-tuning, on clean and on shifted test images.

    python benchmarks/shifts.py flowers5.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

The shifts, made with Pillow from each test image scaled to a short side of 256: blur (radius 3), noise (sd 30 of 255),
contrast (a third), JPEG (quality 8), rotation (20 degrees).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from commands import finetune
from PIL import Image, ImageEnhance, ImageFilter
from reporting import report

from zoo.data.source import list_source

_RUNS = {
    "probe": ("--strategy", "probe"),
    "lp-ft": ("--strategy", "lp-ft", "--epochs", "3", "--patience", "0"),
    "lp-ft --interpolate": ("--strategy", "lp-ft", "--epochs", "3", "--patience", "0", "--interpolate"),
    "partial": ("--strategy", "partial", "--freeze-stages", "3", "--epochs", "5", "--patience", "0"),
    "full": ("--strategy", "full", "--epochs", "3", "--patience", "0"),
}


def _noise(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    random = np.random.default_rng(pixels.size)
    return Image.fromarray((pixels + random.normal(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=8)
    return Image.open(file)


_SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "clean": lambda image: image,
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "noise": _noise,
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1 / 3),
    "jpeg": _jpeg,
    "rotation": lambda image: image.rotate(20, Image.Resampling.BILINEAR),
}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--input-size", default="224")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=Path, help="a file of finished runs, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache, log = Path(folder) / "cache", arguments.cells or Path(folder) / "cells.jsonl"
        done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        _write_shifts(arguments.data, cache, Path(folder))
        for way, words in _RUNS.items():
            cells = []
            for seed in range(arguments.seeds):
                name = {"way": way, "seed": seed, "data": arguments.data, "input_size": arguments.input_size}
                cell = next((cell for cell in done if name.items() <= cell.items()), None)
                if cell is None:
                    run = Path(folder) / f"{way}-{seed}"
                    command = [arguments.data, "--backbone", arguments.backbone, "--weights", arguments.weights, *words]
                    finetune([*command, "--input-size", arguments.input_size, "--seed", str(seed)], cache, out=run)
                    cell = {**name, **{shift: _accuracy(run, Path(folder) / shift) for shift in _SHIFTS}}
                    with log.open("a") as file:
                        file.write(json.dumps(cell) + "\n")
                cells.append(cell)
            means = {shift: statistics.mean(cell[shift] for cell in cells) for shift in _SHIFTS}
            shifted = statistics.mean(value for shift, value in means.items() if shift != "clean")
            rows.append({"way": way, "seeds": arguments.seeds, **means, "mean of shifts": shifted})
    report(rows, arguments.out)


def _write_shifts(data: str, cache: Path, folder: Path) -> None:
    listing = list_source(data, cache)
    for file in listing.files:
        if file.split != "test":
            continue
        with Image.open(listing.root / file.file) as opened:
            image = opened.convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        for shift, change in _SHIFTS.items():
            target = folder / shift / "test" / file.label / f"{Path(file.file).stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            change(image).save(target)
            # A data set has training images; these are not looked at.
            trained = folder / shift / "train" / file.label / "none.png"
            if not trained.exists():
                trained.parent.mkdir(parents=True, exist_ok=True)
                image.save(trained)


def _accuracy(run: Path, data: Path) -> float:
    command = [sys.executable, "-m", "zoo_cli", "evaluate", str(run), str(data), "--device", "cpu", "--json", "--quiet"]
    done: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return float(done["accuracy"])


if __name__ == "__main__":
    main()
