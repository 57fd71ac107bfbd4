"""What an exported model gives beside probabilities."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo.artifacts.manifest import LABEL, OUTPUT, TOP_LABELS, TOP_PROBABILITIES
from zoo.errors import UsageError

_TOP = re.compile(r"top([1-9]\d*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model gives beside probabilities."""

    label: bool = False
    """The number of the most probable class, int64 [N]."""
    top: int = 0
    """The numbers and the probabilities of so many most probable classes, int64 and float [N, top]."""
    embedding: bool = False
    """What the head sees of an image, float [N, D]."""

    @classmethod
    def parse(cls, text: str) -> Outputs:
        """Those named in `text`, such as `label,top5,embedding`; `probabilities` is always there."""
        label, top, embedding = False, 0, False
        for word in text.split(","):
            found = _TOP.match(word.strip())
            label |= word.strip() == "label"
            embedding |= word.strip() == "embedding"
            top = int(found[1]) if found else top
            if not found and word.strip() not in ("label", "embedding", OUTPUT):
                raise UsageError(f"unknown output: {word.strip()!r}; {OUTPUT}, label, topK (such as top5) or embedding")
        return cls(label=label, top=top, embedding=embedding)

    def check(self, classes: int, *, cascade: bool) -> None:
        """Raises UsageError where a model of so many classes, or a cascade, cannot have them."""
        if self.top > classes:
            raise UsageError(f"output top{self.top}: there are {classes} classes; ask for fewer")
        if self.embedding and cascade:
            raise UsageError("output embedding: each member of a cascade has its own; leave it out")


def add_outputs(proto: onnx.ModelProto, outputs: Outputs) -> None:
    """Adds what can be read off the probabilities to a model."""
    graph = proto.graph
    batch = next(output for output in graph.output if output.name == OUTPUT).type.tensor_type.shape.dim[0]
    if outputs.label:
        graph.node.append(helper.make_node("ArgMax", [OUTPUT], [LABEL], name=LABEL, axis=1, keepdims=0))
        graph.output.append(helper.make_tensor_value_info(LABEL, TensorProto.INT64, [batch.dim_param]))
    if outputs.top:
        graph.initializer.append(numpy_helper.from_array(np.array([outputs.top]), "top"))
        graph.node.append(
            helper.make_node("TopK", [OUTPUT, "top"], [TOP_PROBABILITIES, TOP_LABELS], name="top", axis=1)
        )
        for name, kind in ((TOP_PROBABILITIES, TensorProto.FLOAT), (TOP_LABELS, TensorProto.INT64)):
            graph.output.append(helper.make_tensor_value_info(name, kind, [batch.dim_param, outputs.top]))
