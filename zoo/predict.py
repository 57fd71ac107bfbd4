"""The verb `predict`: labels for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """For every file its label, the probability of it, and the `top` labels with theirs.

    Raises DataError naming a file that cannot be read, ModelError for a model without labels.
    """
    loaded = OnnxModel(model, device=device, threads=threads, progress=progress)
    names = loaded.require_manifest("predict").labels
    for file in files:
        if not file.is_file():
            raise DataError(f"no such file: {file}; give image files")
    answers = []
    with (progress or Silent()).task("predicting", len(files)) as task:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            probabilities = loaded.probabilities([decode_image(file) for file in batch], batch=_BATCH)
            answers += [_answer(file, names, row, top) for file, row in zip(batch, probabilities.tolist(), strict=True)]
            task.advance(len(batch))
    return answers


def _answer(file: Path, names: Sequence[str], probabilities: Sequence[float], top: int) -> dict[str, Any]:
    best = sorted(zip(names, probabilities, strict=True), key=lambda pair: -pair[1])[:top]
    return {
        "file": str(file),
        "label": best[0][0],
        "probability": best[0][1],
        "top": [{"label": label, "probability": probability} for label, probability in best],
    }
