"""The manifest inside an exported model: JSON in the ONNX metadata under the key `zoo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ModelError

SCHEMA = 3
_SEALED_SINCE, _HEADS_SINCE = 2, 3
METADATA_KEY = "zoo"

INPUT = "image"
OUTPUT = "probabilities"
LABEL, TOP_LABELS, TOP_PROBABILITIES, EMBEDDING = "label", "top_labels", "top_probabilities", "embedding"
"""Outputs that a model may have beside its probabilities, see `zoo.export.outputs.Outputs`."""
EXIT = "exit"
"""Of a gated cascade: the number of the member that answered, int64 [N]."""


def output_of(name: str, head: str) -> str:
    """What the output `name` is called of a further head."""
    return f"{name}_{head}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One input given by formula (`zoo.runtime.golden.golden_image`) and the probabilities it must give."""

    height: int
    width: int
    seed: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is to be known of probabilities that a model gives: their labels, and the run that they come from."""

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
    cascade: Mapping[str, Any] | None = None
    """Of a cascade: its kind, when it stops, and what its members are."""

    @property
    def output(self) -> str:
        """The name of the output that gives these probabilities."""
        return OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadManifest(Answer):
    """A further head of a model, from a run of its own."""

    name: str
    shared: float
    """The share of the bytes of its weights that the file holds anyway, for those before it."""

    @property
    def output(self) -> str:
        """The name of the output that gives these probabilities."""
        return output_of(OUTPUT, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest(Answer):
    """What a user of an exported model needs to know and cannot read from the graph."""

    versions: Mapping[str, str]
    precision: str = "fp32"
    variants: tuple[Mapping[str, Any], ...] = ()
    """What was measured of other precisions, and why each was kept or not."""
    heads: tuple[HeadManifest, ...] = ()
    """What else it answers of an image."""

    schema: int = SCHEMA

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All probabilities that the model gives: its own, and those of further heads."""
        return (self, *self.heads)

    @property
    def is_sealed(self) -> bool:
        """Whether the file that holds this manifest also holds a digest of itself."""
        return self.schema >= _SEALED_SINCE

    def to_json(self) -> str:
        """The manifest as the text that goes into the model."""
        value = asdict(self)
        if not self.heads:  # an earlier Zoo, which knows no heads, is to read it
            del value["heads"]
            value["schema"] = _HEADS_SINCE - 1
        return json.dumps(value, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelManifest:
        """The manifest in `text`. Raises ModelError where it is damaged or of a newer schema."""
        try:
            value = json.loads(text)
            if value["schema"] > SCHEMA:
                raise ModelError(f"manifest of a newer Zoo: schema {value['schema']}, known {SCHEMA}; update Zoo")
            value["variants"] = tuple(value.get("variants", ()))
            value["heads"] = tuple(HeadManifest(**_fields(head)) for head in value.get("heads", ()))
            return cls(**_fields(value))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"manifest in the model is damaged: {error}; export the model again") from None


def _fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON left of an answer, in tuples where there were tuples."""
    golden = [Golden(**{**golden, "probabilities": tuple(golden["probabilities"])}) for golden in value["golden"]]
    return {**value, "labels": tuple(value["labels"]), "golden": tuple(golden)}
