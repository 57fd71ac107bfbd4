"""Proof that the exported file answers as the trained model does, from image bytes on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.artifacts.manifest import EMBEDDING, EXIT, INPUT, OUTPUT
from zoo.data.dataset import DataSet, Sample
from zoo.data.images import decode_image
from zoo.errors import ParityError
from zoo.export.answering import Answering
from zoo.runtime.golden import golden_image
from zoo.runtime.session import open_session

BATCHES = (1, 2, 3, 8)
TOLERANCE = 1e-4
"""Largest difference in any probability (fp32)."""

_REAL_IMAGES = 8
_SYNTHETIC = ((61, 83), (224, 224), (480, 333))


def as_jpegs(paths: Sequence[Path]) -> list[bytes]:
    """The images as JPEG bytes: the file itself where it is one, else encoded."""
    return [
        path.read_bytes() if path.suffix.lower() in (".jpg", ".jpeg") else _encode(decode_image(path)) for path in paths
    ]


def synthetic_jpegs() -> list[bytes]:
    """Pictures by formula, of several sizes and shapes."""
    return [_encode(golden_image(height, width, seed)) for seed, (height, width) in enumerate(_SYNTHETIC)]


def find_parity(
    answering: Answering, exported: Path, data: DataSet, *, threads: int, output: str = OUTPUT
) -> dict[str, Any]:
    """What the manifest says of `measure_parity`, over pictures by formula and what is still there of `data`."""
    jpegs = synthetic_jpegs() + as_jpegs([data.path(sample) for sample in _real_images(data)])
    worst = measure_parity(answering, exported, jpegs, threads=threads, output=output)
    return {"max_abs": worst, "batches": list(BATCHES), "images": len(jpegs)}


def measure_parity(
    answering: Answering, exported: Path, jpegs: Sequence[bytes], *, threads: int, output: str = OUTPUT
) -> float:
    """The largest difference in probabilities between the model in torch and the file in ONNX Runtime on the CPU.

    `output` is where the file gives those of this model. Both decode the same JPEG bytes; compared at batch sizes 1, 2,
    3 and 8, every image being in one batch of each size at least (the images of a batch are cut to their common size).
    The difference in an embedding, where the model gives one, counts relative to its largest value. Raises ParityError
    beyond `TOLERANCE`.
    """
    session = open_session(exported, device="cpu", threads=threads)
    wanted = (OUTPUT, EMBEDDING, EXIT) if output == OUTPUT else (output,)
    names = [found.name for found in session.get_outputs() if found.name in wanted]
    images = [decode_image(jpeg) for jpeg in jpegs]
    worst = 0.0
    for size in BATCHES:
        for start in range(0, len(images), size):
            group = [images[(start + offset) % len(images)] for offset in range(size)]
            batch = _common(group)
            theirs = dict(zip(names, session.run(names, {INPUT: batch}), strict=True))
            ours = {output: answering(batch, theirs.get(EXIT))}
            if EMBEDDING in theirs:
                ours[EMBEDDING] = answering.embedding(batch)
            for name, expected in ours.items():
                worst = max(worst, _difference(expected, theirs[name], name, relative=name == EMBEDDING))
    if worst > TOLERANCE:
        raise ParityError(
            f"exported model differs from the trained one by {worst:.2e} in its answers, allowed {TOLERANCE:.0e}; "
            "nothing was written"
        )
    return worst


def _real_images(data: DataSet) -> list[Sample]:
    """Images to compare on, where the data is still there: held-out ones first, spread over the classes."""
    ordered = [*data.of("val"), *data.of("test"), *data.of("train")]
    there = [sample for sample in ordered if data.path(sample).is_file()]
    return there[:: max(1, len(there) // _REAL_IMAGES)][:_REAL_IMAGES]


def _difference(ours: NDArray[Any], theirs: NDArray[Any], name: str, *, relative: bool) -> float:
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        raise ParityError(f"exported model gives {name} of {theirs.shape}, expected {ours.shape}; nothing was written")
    return float(np.abs(ours - theirs).max() / (np.abs(ours).max() if relative else 1))


def _common(group: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = min(image.shape[0] for image in group)
    width = min(image.shape[1] for image in group)
    return np.stack([image[:height, :width] for image in group])


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
