"""Inputs given by a formula, so that a model can carry expected answers without carrying images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def golden_image(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture [height, width, 3] of gentle waves, by integer arithmetic alone: the same on every machine.

    value(y, x, c) = (3 y (seed + 1) + 5 x (c + 1) + (x y) // 16 + 40 seed + 85 c) folded into 0..255.
    """
    y, x, c = np.ogrid[:height, :width, :3]
    ramp = 3 * y * (seed + 1) + 5 * x * (c + 1) + (x * y) // 16 + 40 * seed + 85 * c
    folded = ramp % 510
    image: NDArray[np.uint8] = np.minimum(folded, 510 - folded).astype(np.uint8)
    return image
