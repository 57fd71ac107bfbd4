"""What an exported file must do, done in torch: uint8 pixels in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.errors import ParityError
from zoo.export.graph import Serving
from zoo.nn.cascade import Cascade, Gate, Probabilities, load_cascade, load_members
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel
from zoo.specs import ImageInput

ROUTE_TOLERANCE = 1e-4
"""A confidence nearer than this to a gate's threshold may be on either side of it elsewhere."""


class Answering:
    """A trained model, or the members of a cascade together, as they are served."""

    def __init__(self, models: Sequence[TransferModel], cascade: Cascade | None, *, compiled: bool = False) -> None:
        self._models: list[nn.Module] = [Serving(model, logits=True).eval() for model in models]
        if compiled:
            for model in self._models:
                model.compile(dynamic=False)  # each shape has its own code, as fast as can be
        self._cascade = cascade

    def __call__(self, images: NDArray[np.uint8], exits: NDArray[np.int64] | None = None) -> Probabilities:
        """Probabilities [N, C] of uint8 images [N, H, W, 3]; of a gate, stopping at the members `exits` [N].

        Raises ParityError where the gate would have stopped one of them elsewhere.
        """
        with torch.inference_mode():
            found = [model(torch.from_numpy(images))[0].numpy() for model in self._models]
        if self._cascade is None:
            alone: Probabilities = softmax(found[0], 1)
            return alone
        if exits is None or not isinstance(self._cascade, Gate):
            return self._cascade.combine(found)[0]
        return _along(self._cascade, softmax(np.stack(found), 2), exits)

    def embedding(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the head of a model [N, D] sees of uint8 images [N, H, W, 3]; of a cascade, that of the last member."""
        with torch.inference_mode():
            found: NDArray[np.float32] = self._models[-1](torch.from_numpy(images))[1].numpy()
        return found


def open_answering(
    run_path: Path, catalogue: Catalogue, *, threads: int, compiled: bool = False
) -> tuple[Answering, ImageInput]:
    """A finished run as torch answers with it on the CPU, and the images it expects.

    Of a gate, every member sees every image. Raises RunError for a run that is unfinished or damaged.
    """
    make_fabric("cpu", threads)
    run = RunFolder.open_complete(run_path)
    members = load_members(run, catalogue)
    models = [model for model, _ in members]
    return Answering(models, load_cascade(run), compiled=compiled), members[-1][1].input


def _along(gate: Gate, probabilities: Probabilities, exits: NDArray[np.int64]) -> Probabilities:
    """Answers [N, C] of a gate on the way that each image took elsewhere, which must be one that it may take."""
    answers = gate.answers(probabilities)
    for number, confidence in enumerate(answers[:-1].max(2)):
        wrong = ((exits > number) & (confidence >= gate.threshold + ROUTE_TOLERANCE)) | (
            (exits == number) & (confidence < gate.threshold - ROUTE_TOLERANCE)
        )
        if wrong.any():
            raise ParityError(
                f"exported cascade stops elsewhere than the trained one: confidence {confidence[wrong][0]:.5f}, "
                f"threshold {gate.threshold:.5f}; nothing was written"
            )
    chosen: Probabilities = answers[exits, np.arange(len(exits))]
    return chosen
