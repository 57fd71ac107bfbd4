"""A loaded model over the images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import OUTPUT
from zoo.data.dataset import Sample
from zoo.data.store import ImageStore
from zoo.progress import Progress
from zoo.runtime.model import OnnxModel

_BATCH = 32


def predict_samples(
    model: OnnxModel, samples: Sequence[Sample], store: ImageStore, progress: Progress, *, output: str = OUTPUT
) -> NDArray[np.float32]:
    """Probabilities [N, C] of samples, in their order, as `output` gives them."""
    found: list[NDArray[Any]] = []
    with progress.task("predicting", len(samples)) as task:
        for start in range(0, len(samples), _BATCH):
            rows = samples[start : start + _BATCH]
            found += model.of_images([store.pixels(sample) for sample in rows], [output], _BATCH)
            task.advance(len(rows))
    return np.concatenate(found)
