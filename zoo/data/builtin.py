"""Data sets that come with Zoo's dependencies, laid out as folders of PNG files."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

from zoo.artifacts.files import folder_once
from zoo.errors import MissingExtraError

BUILTIN = ("digits",)

_TEST_SHARE = 1 / 3


def materialise(name: str, cache: Path) -> Path:
    """The folder of a built-in data set, written under `cache` the first time.

    `digits`: the 1,797 scans of handwritten digits in scikit-learn, 8x8 grey levels, a third of each class for
    testing (always the same third).
    """
    if find_spec("sklearn") is None:
        raise MissingExtraError(f"builtin:{name} needs scikit-learn; install it with `pip install 'zoo[train]'`")
    return folder_once(cache / "builtin" / f"{name}-1", _write_digits)


def _write_digits(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        rows = [row for row, target in enumerate(digits.target) if target == digit]
        random.Random(digit).shuffle(rows)
        test = set(rows[: round(len(rows) * _TEST_SHARE)])
        for split in ("train", "test"):
            (folder / split / str(digit)).mkdir(parents=True)
        for row in rows:
            grey = (digits.images[row] * (255 / 16)).round().astype("uint8")
            Image.fromarray(grey).save(folder / ("test" if row in test else "train") / str(digit) / f"{row:04d}.png")
