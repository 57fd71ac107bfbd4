"""The verb `predict`: labels for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.images import decode_image
from zoo.errors import DataError
from zoo.progress import Progress, Silent
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device

_BATCH = 8
"""Few: so many photographs are in memory at once, and one of twelve megapixels takes 36 MB there."""


def predict(
    model: Path,
    files: Sequence[Path],
    *,
    top: int = 5,
    device: Device = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """For every file its label, the probability of it, and the `top` labels with theirs; the same for further heads.

    Raises DataError naming a file that cannot be read, ModelError for a model without labels.
    """
    loaded = OnnxModel(model, device=device, threads=threads, progress=progress)
    manifest = loaded.require_manifest("predict")
    outputs = [answer.output for answer in manifest.answers]
    for file in files:
        if not file.is_file():
            raise DataError(f"no such file: {file}; give image files")
    answers = []
    with (progress or Silent()).task("predicting", len(files)) as task:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            found = loaded.of_images([decode_image(file) for file in batch], outputs, batch=_BATCH)
            for file, own, *others in zip(batch, *found, strict=True):
                heads = {
                    head.name: _best(head.labels, probabilities, top)
                    for head, probabilities in zip(manifest.heads, others, strict=True)
                }
                answers.append({"file": str(file), **_best(manifest.labels, own, top), "heads": heads})
            task.advance(len(batch))
    return answers


def _best(names: Sequence[str], probabilities: NDArray[np.float32], top: int) -> dict[str, Any]:
    best = sorted(zip(names, probabilities.tolist(), strict=True), key=lambda pair: -pair[1])[:top]
    return {
        "label": best[0][0],
        "probability": best[0][1],
        "top": [{"label": label, "probability": probability} for label, probability in best],
    }
