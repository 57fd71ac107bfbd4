"""The manifest inside an exported model: JSON in the ONNX metadata under the key `zoo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ModelError

SCHEMA = 1
METADATA_KEY = "zoo"

INPUT = "image"
OUTPUT = "probabilities"
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
    source_weights_sha256: str | None
    data_fingerprint: str
    seed: int = 0
    """That of the training: it splits data that has no test images of its own."""
    metrics: Mapping[str, float | None]
    parity: Mapping[str, Any]
    golden: tuple[Golden, ...]
    versions: Mapping[str, str]
    cascade: Mapping[str, Any] | None = None
    """Of a cascade: its kind, when it stops, and what its members are."""

    def to_json(self) -> str:
        """The manifest as the text that goes into the model."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelManifest:
        """The manifest in `text`. Raises ModelError where it is damaged or of a newer schema."""
        try:
            value = json.loads(text)
            schema = value.pop("schema")
            if schema > SCHEMA:
                raise ModelError(f"manifest of a newer Zoo: schema {schema}, known {SCHEMA}; update Zoo")
            value["labels"] = tuple(value["labels"])
            value["golden"] = tuple(
                Golden(**{**golden, "probabilities": tuple(golden["probabilities"])}) for golden in value["golden"]
            )
            return cls(**value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"manifest in the model is damaged: {error}; export the model again") from None
