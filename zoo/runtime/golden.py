"""Inputs given by a formula, so that a model can carry expected answers without carrying images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import Answer
from zoo.errors import ModelError
from zoo.runtime.model import OnnxModel

GOLDEN_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2}
"""Largest difference in a probability, by precision: kernels of another machine may round or saturate otherwise."""


def golden_image(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture [height, width, 3] of gentle waves, by integer arithmetic alone: the same on every machine.

    value(y, x, c) = (3 y (seed + 1) + 5 x (c + 1) + (x y) // 16 + 40 seed + 85 c) folded into 0..255.
    """
    y, x, c = np.ogrid[:height, :width, :3]
    ramp = 3 * y * (seed + 1) + 5 * x * (c + 1) + (x * y) // 16 + 40 * seed + 85 * c
    folded = ramp % 510
    image: NDArray[np.uint8] = np.minimum(folded, 510 - folded).astype(np.uint8)
    return image


def check_golden(model: OnnxModel) -> float:
    """The largest difference in any probability between what a model answers here and what its manifest expects.

    Raises ModelError beyond `GOLDEN_TOLERANCE`, and for a model that has no golden answers or does not run.
    """
    manifest = model.require_manifest("verify")
    tolerance = GOLDEN_TOLERANCE.get(manifest.precision)
    if tolerance is None or not all(answer.golden for answer in manifest.answers):
        raise ModelError(f"no golden answers of {manifest.precision!r} to compare with: {model.path}; export it again")
    worst = 0.0
    for answer in manifest.answers:
        off = _difference(model, answer)
        if not off <= tolerance:
            raise ModelError(
                f"{model.path} does not give the answers its manifest expects: off by {off:.1e} in {answer.output}, "
                f"allowed {tolerance:.0e}; the file is damaged or this machine computes wrongly: export it again"
            )
        worst = max(worst, off)
    return worst


def _difference(model: OnnxModel, answer: Answer) -> float:
    images = [golden_image(golden.height, golden.width, golden.seed) for golden in answer.golden]
    try:
        found = model.of_images(images, [answer.output])[0]
        return float(np.abs(found - [golden.probabilities for golden in answer.golden]).max())
    except Exception as error:  # ONNX Runtime's own exception types are not part of its public interface
        reason = " ".join(str(error).split())
        raise ModelError(f"model does not run here: {model.path} ({reason:.200}); export it again") from None
