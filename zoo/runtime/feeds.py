"""Inputs to measure with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zoo.artifacts.manifest import INPUT
from zoo.data.images import decode_image
from zoo.data.splits import open_dataset
from zoo.errors import ModelError
from zoo.progress import Progress
from zoo.runtime.golden import golden_image
from zoo.runtime.model import OnnxModel

Feeds = dict[str, NDArray[Any]]

_IMAGES = 64

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{f"tensor({kind})": kind for bits in (8, 16, 32, 64) for kind in (f"int{bits}", f"uint{bits}")},
}


def some_images(data: str, *, cache: Path, progress: Progress) -> list[NDArray[np.uint8]]:
    """Images [H, W, 3] of the test split of DATA, 64 of them at most, from all over it."""
    dataset = open_dataset(data, cache=cache, progress=progress, for_training=False)
    test = dataset.of("test")
    return [decode_image(dataset.path(sample)) for sample in test[:: math.ceil(len(test) / _IMAGES)]]


def image_feeds(height: int, width: int, *, batch: int, images: Sequence[NDArray[np.uint8]]) -> list[Feeds]:
    """`images` [H, W, 3] fitted to one size, in whole batches; without any, one picture by formula."""
    if not images:
        return [{INPUT: np.repeat(golden_image(height, width, 0)[None], batch, axis=0)}]
    fitting = [np.asarray(ImageOps.fit(Image.fromarray(image), (width, height))) for image in images]
    # Whole batches, the last one filled up with the first images.
    count = math.ceil(len(fitting) / batch)
    rows = [fitting[number % len(fitting)] for number in range(count * batch)]
    return [{INPUT: np.stack(rows[start : start + batch])} for start in range(0, len(rows), batch)]


def model_feeds(model: OnnxModel, *, batch: int, images: Sequence[NDArray[np.uint8]]) -> list[Feeds]:
    """Pictures of the input size of a model that Zoo exported, of others tensors of the declared shapes."""
    if model.manifest is not None:
        height, width = model.manifest.input["height"], model.manifest.input["width"]
        return image_feeds(height, width, batch=batch, images=images)
    feeds: dict[str, NDArray[Any]] = {}
    random = np.random.default_rng(0)
    for tensor in model.inputs:
        if tensor.type not in _NUMPY:
            raise ModelError(f"input {tensor.name} of {model.path} is {tensor.type}; bench cannot make such input")
        shape = [batch if axis == 0 and size < 0 else max(size, 1) for axis, size in enumerate(tensor.shape)]
        kind = np.dtype(_NUMPY[tensor.type])
        values = random.random(shape) if kind.kind == "f" else random.integers(0, 2, shape)
        feeds[tensor.name] = values.astype(str).astype(kind) if kind.kind == "O" else values.astype(kind)
    return [feeds]
