"""Small things tests make and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics rows without what differs from run to run."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
