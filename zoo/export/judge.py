"""What a model in another precision is worth: how fast it is here, and how many answers it changes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zoo.artifacts.manifest import INPUT
from zoo.export.evidence import Evidence
from zoo.export.int8 import Activations
from zoo.metrics import paired_difference_interval, wilson_interval
from zoo.progress import Progress
from zoo.runtime.model import OnnxModel
from zoo.runtime.samples import predict_samples
from zoo.runtime.session import Device
from zoo.runtime.timing import Call, take_turns

AGREEMENT = 0.99
"""The share of validation images that must get the same label as before."""
_GAIN = 1.05
"""What is less than this times as fast is not worth its differences."""
_BATCHES = (1, 8)
_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model in one precision, and what was measured of it against the same in fp32."""

    proto: onnx.ModelProto
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    refused: str | None = None
    """Why it is not kept."""
    layers_kept: int = 0
    """How many of its first layers are left in fp32."""
    activations: Activations | None = None
    faster: dict[int, float] | None = None
    """How many times as fast, by batch size."""
    images: int = 0
    """The validation images that the rest was measured on."""
    agreement: float | None = None
    """The share of them that gets the same label."""
    agreement95: tuple[float, float] | None = None
    loss: float | None = None
    """The share of right answers that is lost."""
    loss95: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        """How many times as fast it is with one image."""
        return self.faster[1] if self.faster else 1.0

    def to_json(self) -> dict[str, Any]:
        """What was measured, as JSON values."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "proto"}
        return {**found, "bytes": self.proto.ByteSize()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a variant must keep to, and where."""

    max_loss: float
    """The largest share of right answers that may be lost."""
    device: Device
    threads: int


class Judge:
    """Compares variants with the model as it was."""

    def __init__(
        self, plain: Variant, evidence: Evidence, conditions: Conditions, folder: Path, progress: Progress
    ) -> None:
        self.evidence = evidence
        self.conditions = conditions
        self._folder = folder
        self._progress = progress
        self._model = self._load(plain)
        self._before = self._labels(self._model)

    def __call__(self, variant: Variant) -> Variant:
        """The variant with what was measured, and why it is refused, if it is."""
        variant = self.timed(variant)
        return variant if variant.refused is not None else self.answers(variant)

    def answers(self, variant: Variant) -> Variant:
        """The variant with how many answers it changes, refused where these are too many."""
        now, truth, allowed = self._labels(self._load(variant)), self.evidence.truth, self.conditions.max_loss
        same, right, reference = now == self._before, now == truth, self._before == truth
        agreement, loss = float(same.mean()), float(reference.mean() - right.mean())
        refused = None
        if agreement < AGREEMENT:
            refused = f"{agreement:.1%} of validation images get the same label, {AGREEMENT:.0%} asked"
        elif loss > allowed:
            refused = f"{100 * loss:.1f} points of accuracy lost, {100 * allowed:g} allowed"
        return replace(
            variant,
            refused=refused,
            images=len(truth),
            agreement=agreement,
            agreement95=wilson_interval(int(same.sum()), len(same)),
            loss=loss,
            loss95=paired_difference_interval(right, reference),
        )

    def timed(self, variant: Variant) -> Variant:
        """The variant with how fast it is, refused where that is not faster."""
        model, faster = self._load(variant), {}
        for batch in _BATCHES:
            before, now = take_turns([self._calls(self._model, batch), self._calls(model, batch)], seconds=_SECONDS)
            faster[batch] = now.times_as_fast_as(before)
        slow = min(faster.values()) < _GAIN
        words = ", ".join(f"{gain:.2f} at batch {batch}" for batch, gain in faster.items())
        return replace(variant, faster=faster, refused=f"not faster here: {words} times as fast" if slow else None)

    def _load(self, variant: Variant) -> OnnxModel:
        path = self._folder / f"{variant.precision}.onnx"
        path.write_bytes(variant.proto.SerializeToString())
        return OnnxModel(path, device=self.conditions.device, threads=self.conditions.threads)

    def _labels(self, model: OnnxModel) -> NDArray[np.int64]:
        found = predict_samples(model, self.evidence.validation, self.evidence.store, self._progress)
        labels: NDArray[np.int64] = found.argmax(1)
        return labels

    def _calls(self, model: OnnxModel, batch: int) -> Call:
        """Calls with so many real images of the network's own size, others each time."""
        sized = [
            np.asarray(ImageOps.fit(Image.fromarray(image), (self.evidence.side,) * 2))
            for image in self.evidence.calibration[: 2 * max(_BATCHES)]
        ]
        rows = itertools.cycle(sized)
        groups = itertools.cycle([np.stack([next(rows) for _ in range(batch)]) for _ in sized])
        return lambda: model.run({INPUT: next(groups)})
