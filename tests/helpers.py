"""Small things tests make and compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.artifacts.manifest import INPUT, OUTPUT

SHAPES = ("bars", "dots", "rings")


def draw(shape: str, seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """A noisy picture of bars, dots or rings, uint8 [H, W, 3]."""
    random = np.random.default_rng([seed, *map(ord, shape)])
    y, x = np.mgrid[: size[0], : size[1]]
    phase = random.uniform(0, 6)
    wave = {
        "bars": np.sin(x / 2 + phase),
        "dots": np.sin(x / 2 + phase) * np.sin(y / 2 + phase),
        "rings": np.sin(np.hypot(x - size[1] / 2, y - size[0] / 2) / 1.5 + phase),
    }[shape]
    grey = 128 + 90 * wave + random.normal(0, 20, size)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def make_folder(root: Path, train: int, test: int) -> Path:
    """A data set folder of `SHAPES` with so many images per class, JPEG and PNG in turn."""
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        for shape in SHAPES:
            folder = root / split / shape
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = "jpg" if number % 2 else "png"
                image = draw(shape, first + number, (40 + number % 3, 48))
                Image.fromarray(image).save(folder / f"{number:03d}.{suffix}")
    return root


def real_weights(shared: Path, name: str) -> str:
    """The weights file of a backbone."""
    return str(next((shared / "weights").glob(f"{name}-*.pth")))


def ask_server(model: Path, pixels: NDArray[np.uint8], cache: Path) -> NDArray[np.float32]:
    """Probabilities [N, C] that `zoo serve` gives an unmodified tritonclient for images [N, H, W, 3]."""
    from tritonclient import http as triton

    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", "serve", str(model), "--port", "0", "--device", "cpu", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZOO_CACHE": str(cache)},
    )
    try:
        assert process.stdout is not None
        client = triton.InferenceServerClient(json.loads(process.stdout.readline())["url"].removeprefix("http://"))
        wanted = triton.InferInput(INPUT, list(pixels.shape), "UINT8")
        wanted.set_data_from_numpy(pixels)
        found: NDArray[np.float32] = client.infer(model.stem, [wanted]).as_numpy(OUTPUT)
        client.close()
        return found
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
