"""The manifest inside an exported model: JSON in the ONNX metadata under the key `zoo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ModelError

SCHEMA = 2
_SEALED_SINCE = 2
METADATA_KEY = "zoo"

INPUT = "image"
OUTPUT = "probabilities"
LABEL, TOP_LABELS, TOP_PROBABILITIES, EMBEDDING = "label", "top_labels", "top_probabilities", "embedding"
"""Outputs that a model may have beside its probabilities, see `zoo.export.outputs.Outputs`."""
EXIT = "exit"
"""Of a gated cascade: the number of the member that answered, int64 [N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One input given by formula (`zoo.runtime.golden.golden_image`) and the probabilities it must give."""

    height: int
    width: int
    seed: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """What a user of an exported model needs to know and cannot read from the graph."""

    task: str
    labels: tuple[str, ...]
    input: Mapping[str, Any]
    """`ImageInput` as a mapping: the preprocessing that is inside the graph."""
    backbone: str
    weights: str
    weights_license: str | None
    pretrained_on: str | None
    strategy: str
    run_weights_sha256: str
    run_sha256: str | None = None
    """A digest of the records of the run that the model was exported from."""
    source_weights_sha256: str | None
    data_fingerprint: str
    seed: int = 0
    """That of the training: it splits data that has no test images of its own."""
    images: Mapping[str, int] | None = None
    """How many images the data set had in each split."""
    metrics: Mapping[str, float | None]
    intervals95: Mapping[str, tuple[float, float]] | None = None
    """Of metrics that are shares of images: between what values chance leaves them."""
    parity: Mapping[str, Any]
    golden: tuple[Golden, ...]
    versions: Mapping[str, str]
    precision: str = "fp32"
    variants: tuple[Mapping[str, Any], ...] = ()
    """What was measured of other precisions, and why each was kept or not."""
    cascade: Mapping[str, Any] | None = None
    """Of a cascade: its kind, when it stops, and what its members are."""

    schema: int = SCHEMA

    @property
    def is_sealed(self) -> bool:
        """Whether the file that holds this manifest also holds a digest of itself."""
        return self.schema >= _SEALED_SINCE

    def to_json(self) -> str:
        """The manifest as the text that goes into the model."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelManifest:
        """The manifest in `text`. Raises ModelError where it is damaged or of a newer schema."""
        try:
            value = json.loads(text)
            if value["schema"] > SCHEMA:
                raise ModelError(f"manifest of a newer Zoo: schema {value['schema']}, known {SCHEMA}; update Zoo")
            value["labels"] = tuple(value["labels"])
            value["variants"] = tuple(value.get("variants", ()))
            value["golden"] = tuple(
                Golden(**{**golden, "probabilities": tuple(golden["probabilities"])}) for golden in value["golden"]
            )
            return cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"manifest in the model is damaged: {error}; export the model again") from None
