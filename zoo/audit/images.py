"""Every image decoded once: whether that is possible, and the few numbers the audit needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.dataset import DataSet, Sample
from zoo.data.images import decode_image
from zoo.data.parallel import map_ahead
from zoo.errors import DataError
from zoo.progress import Progress

SIDE = 16
"""Pixels of a side of the miniatures that duplicates are told by."""
_AHEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one image is like."""

    sample: Sample
    height: int
    width: int
    mean: tuple[float, float, float]
    """Of its pixels in [0, 255]: red, green, blue."""
    spread: float
    """Standard deviation of its brightness."""
    grey: bool
    """Whether red, green and blue are the same everywhere."""
    miniature: NDArray[np.float32]
    """[SIDE, SIDE, 3], whatever its shape was."""


def look_at(data: DataSet, *, threads: int, progress: Progress) -> tuple[list[Look], dict[str, str]]:
    """Every image that can be read, in order, and why the others cannot, by file."""
    looks: list[Look] = []
    bad: dict[str, str] = {}

    def look(sample: Sample) -> Look | str:
        try:
            return _look(sample, decode_image(data.path(sample), sample.file))
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool, progress.task("looking at images", len(data.samples)) as task:
        for sample, found in zip(data.samples, map_ahead(pool, look, data.samples, _AHEAD * threads), strict=True):
            if isinstance(found, str):
                bad[sample.file] = found
            else:
                looks.append(found)
            task.advance()
    return looks, bad


def _look(sample: Sample, pixels: NDArray[np.uint8]) -> Look:
    red, green, blue = pixels.mean((0, 1))
    image = Image.fromarray(pixels)
    return Look(
        sample=sample,
        height=pixels.shape[0],
        width=pixels.shape[1],
        mean=(float(red), float(green), float(blue)),
        spread=float(np.asarray(image.convert("L"), np.float32).std()),
        grey=bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()),
        miniature=np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32),
    )


def normalised(looks: Sequence[Look]) -> NDArray[np.float32]:
    """Miniatures [N, SIDE * SIDE * 3] of images, each with mean 0 and length 1: brightness and contrast taken away."""
    flat = np.stack([look.miniature.reshape(-1) for look in looks])
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat
