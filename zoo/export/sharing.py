"""Models that see the same image in one graph, in which what they have in common is there, and computed, once."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx.compose import add_prefix_graph
from onnx.inliner import inline_local_functions
from onnx_ir.passes import common

from zoo.artifacts.manifest import output_of
from zoo.export.graph import strip

_EVERY_SIZE = 2**31
"""Elements: more than a tensor in one file can have."""


def join(first: onnx.ModelProto, others: Mapping[str, onnx.ModelProto]) -> tuple[onnx.ModelProto, dict[str, float]]:
    """One model of exported ones, image to the outputs of all; of each of `others`, what share of its weights' bytes
    was there before it came.

    Outputs of `first` keep their names, those of the others get `_NAME` behind theirs.
    """
    whole, shared = _shared(inline_local_functions(first)), dict[str, float]()
    for name, other in others.items():
        own = _shared(inline_local_functions(other))
        joined = _shared(_beside(whole, own, name))
        shared[name] = 1 - (_weight_bytes(joined) - _weight_bytes(whole)) / _weight_bytes(own)
        whole = joined
    return whole, shared


def _beside(whole: onnx.ModelProto, other: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Both in one graph that takes one image."""
    proto = onnx.ModelProto()
    proto.CopyFrom(whole)
    outputs = {output.name: output_of(output.name, name) for output in other.graph.output}
    prefix = f"head_{name}/"
    graph = add_prefix_graph(other.graph, prefix, rename_inputs=False, rename_outputs=False, name_map=outputs)
    proto.graph.node.extend(graph.node)
    proto.graph.initializer.extend(graph.initializer)
    proto.graph.output.extend(graph.output)
    return proto


def _shared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with one of all equal weights, and one of all nodes that compute the same from the same."""
    model = ir.from_proto(proto)
    common.DeduplicateHashedInitializersPass(size_limit=_EVERY_SIZE)(model)
    common.CommonSubexpressionEliminationPass(size_limit=_EVERY_SIZE)(model)
    found = ir.to_proto(model)
    strip(found)
    return found


def _weight_bytes(proto: onnx.ModelProto) -> int:
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer)
