"""The verb `predict`: labels for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.images import decode_image
from zoo.errors import DataError
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device


def predict(
    model: Path, files: Sequence[Path], *, top: int = 5, device: Device = "auto", threads: int | None = None
) -> list[dict[str, Any]]:
    """For every file its label, the probability of it, and the `top` labels with theirs.

    Raises DataError naming a file that cannot be read, ModelError for a model without labels.
    """
    loaded = OnnxModel(model, device=device, threads=threads)
    names = loaded.require_manifest("predict").labels
    for file in files:
        if not file.is_file():
            raise DataError(f"no such file: {file}; give image files")
    probabilities = loaded.probabilities([decode_image(file) for file in files])
    answers = []
    for file, row in zip(files, probabilities, strict=True):
        best = sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])[:top]
        answers.append(
            {
                "file": str(file),
                "label": best[0][0],
                "probability": best[0][1],
                "top": [{"label": label, "probability": probability} for label, probability in best],
            }
        )
    return answers
