"""What a server under load is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.client import Client
from zoo.client.wire import bytes_array
from zoo.data.images import SUFFIXES
from zoo.data.source import list_source
from zoo.errors import ServerError, UsageError
from zoo.progress import Progress
from zoo.serving.tensors import BYTES, from_binary

_IMAGES = 64
_SIDE = 224
"""Pixels of an image where the model takes any."""

Inputs = dict[str, NDArray[Any]]


def find_model(client: Client, name: str | None) -> str:
    """`name`, or the only model of a `zoo serve`.

    Raises UsageError where that does not tell which, ServerError where nobody answers.
    """
    if name is not None:
        return name
    try:
        names = client.models()
    except ServerError as error:
        if error.status in (401, 403) or not client.ready():
            raise
        raise UsageError(f"which model? {client.address.url} does not say what it has; give one with --model") from None
    if len(names) != 1:
        raise UsageError(f"which model? {client.address.url} has {', '.join(names)}; give one with --model")
    return names[0]


def image_files(data: Sequence[str], *, cache: Path, progress: Progress) -> list[bytes]:
    """The content of image files, and of up to 64 files from all over each data set.

    Raises DataError for a source that is neither.
    """
    found: list[bytes] = []
    for source in data:
        path = Path(source)
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.append(path.read_bytes())
            continue
        listing = list_source(source, cache, progress)
        some = listing.files[:: math.ceil(len(listing.files) / _IMAGES)]
        found += [(listing.root / each.file).read_bytes() for each in some]
    return found


def make_inputs(metadata: dict[str, Any], images: Sequence[bytes]) -> list[Inputs]:
    """The inputs of requests to take turns with: one image file each, or without any, one of random tensors.

    Free axes have size 1, height and width of an image 224. Raises UsageError for a model that takes no images, and for
    one of which no tensors can be made.
    """
    specs = metadata["inputs"]
    if images:
        if len(specs) != 1 or not _takes_files(specs[0]):
            raise UsageError(f"--data: {metadata['name']} takes no image files; leave it out, and tensors are made")
        # Zoo's input of pixels takes files of any number; one of BYTES says how many axes it has.
        axes = len(specs[0]["shape"]) if specs[0]["datatype"] == BYTES else 1
        return [{specs[0]["name"]: bytes_array([image]).reshape((1,) * axes)} for image in images]
    random = np.random.default_rng(0)
    return [{spec["name"]: _tensor(spec, random) for spec in specs}]


def _takes_files(spec: dict[str, Any]) -> bool:
    return spec["datatype"] == BYTES or _is_image(spec)


def _is_image(spec: dict[str, Any]) -> bool:
    return spec["datatype"] == "UINT8" and list(spec["shape"][1:]) == [-1, -1, 3]


def _tensor(spec: dict[str, Any], random: np.random.Generator) -> NDArray[Any]:
    name, datatype = spec["name"], spec["datatype"]
    if datatype == BYTES:
        raise UsageError(f"input {name} takes BYTES, which cannot be made up; give images with --data")
    kind = from_binary(name, datatype, (0,), memoryview(b"")).dtype
    shape = [1, _SIDE, _SIDE, 3] if _is_image(spec) else [max(size, 1) for size in spec["shape"]]
    if kind == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    values = random.random(shape) if kind.kind == "f" else random.integers(0, 2, shape)
    return values.astype(kind)
