"""What an exported file must do, done in torch: uint8 pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import ParityError
from zoo.export.graph import Serving
from zoo.nn.gate import Gate, Probabilities
from zoo.nn.model import TransferModel

ROUTE_TOLERANCE = 1e-4
"""A confidence nearer than this to a gate's threshold may be on either side of it elsewhere."""


class Answering:
    """A trained model, or the members of a cascade with their gate, as they are served."""

    def __init__(self, models: Sequence[TransferModel], gate: Gate | None) -> None:
        self._models = [Serving(model).eval() for model in models]
        self._gate = gate

    def __call__(self, images: NDArray[np.uint8], exits: NDArray[np.int64] | None = None) -> Probabilities:
        """Probabilities [N, C] of uint8 images [N, H, W, 3]; of a cascade, stopping at the members `exits` [N].

        Raises ParityError where the gate would have stopped one of them elsewhere.
        """
        with torch.inference_mode():
            found = np.stack([model(torch.from_numpy(images)).numpy() for model in self._models])
        if self._gate is None:
            only: Probabilities = found[0]
            return only
        if exits is None:
            return self._gate.follow(found)[0]
        answers = self._gate.answers(found)
        confidences, rows = answers.max(2), np.arange(len(exits))
        for number, confidence in enumerate(confidences[:-1]):
            passed, stopped = exits > number, exits == number
            wrong = (passed & (confidence >= self._gate.threshold + ROUTE_TOLERANCE)) | (
                stopped & (confidence < self._gate.threshold - ROUTE_TOLERANCE)
            )
            if wrong.any():
                raise ParityError(
                    f"exported cascade stops at another member than the trained one: confidence "
                    f"{confidence[wrong][0]:.5f}, threshold {self._gate.threshold:.5f}; nothing was written"
                )
        chosen: Probabilities = answers[exits, rows]
        return chosen
