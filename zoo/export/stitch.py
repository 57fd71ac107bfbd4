"""Exported members of a cascade to one graph. Of a gate, only unsure images of a batch reach the next member:

    image -> m0 -> answer, sure?
                   rows that are not: NonZero -> Gather (of the image) -> m1 -> ScatterND (into the answer) -> sure? ...

The rows that go on may be none or all. An `If` around a member would keep ONNX Runtime from optimising inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix_graph
from onnx.inliner import inline_local_functions

from zoo.artifacts.manifest import EXIT, INPUT, OUTPUT
from zoo.export.graph import MEMBER, to_onnx
from zoo.nn.cascade import After, Cascade, Fusion, Gate
from zoo.nn.model import TransferModel


def export_members(models: Sequence[TransferModel], cascade: Cascade) -> list[onnx.ModelProto]:
    """The members of a cascade, each as `stitch` takes it: image to probabilities, or to logits that are summed."""
    logits = isinstance(cascade, After) or (isinstance(cascade, Fusion) and not cascade.average)
    return [to_onnx(model, logits=logits) for model in models]


def stitch(members: Sequence[onnx.ModelProto], cascade: Cascade) -> onnx.ModelProto:
    """One model of exported members, image to probabilities; of a gate, also to the member that answered."""
    if isinstance(cascade, Gate):
        return gated(members, cascade)
    if isinstance(cascade, After):
        return succeeding(members, cascade)
    return fused(members, cascade)


def fused(members: Sequence[onnx.ModelProto], fusion: Fusion) -> onnx.ModelProto:
    """One model of exported ones that all see each image and give probabilities or, to be summed, logits."""
    graph = _Graph()
    said = [graph.member(number, member, INPUT) for number, member in enumerate(members)]
    if fusion.average:
        graph.nodes.append(helper.make_node("Mean", said, [OUTPUT]))
    else:
        graph.nodes.append(helper.make_node("Softmax", [graph.node("Sum", said, "logits")], [OUTPUT], axis=1))
    return graph.model(members[0], members[0].graph.output)


def succeeding(members: Sequence[onnx.ModelProto], after: After) -> onnx.ModelProto:
    """One model of exported ones that give logits, each on its own classes: image to probabilities of the last one."""
    graph = _Graph()
    said = [graph.member(number, member, INPUT) for number, member in enumerate(members)]
    for edge in after.edges:
        matrix = graph.constant(f"edge{edge.name}", edge.matrix)
        told = graph.node("MatMul", [said[edge.source], matrix], f"told{edge.name}")
        said[edge.target] = graph.node("Add", [said[edge.target], told], f"heard{edge.name}")
    graph.nodes.append(helper.make_node("Softmax", [said[-1]], [OUTPUT], axis=1))
    return graph.model(members[0], members[-1].graph.output)


def gated(members: Sequence[onnx.ModelProto], gate: Gate) -> onnx.ModelProto:
    """One model of exported ones behind a gate: image to probabilities and to the member that answered."""
    first, graph = members[0].graph, _Graph()
    last, flat = graph.constant("last", np.array([-1])), graph.constant("flat", np.array([-1]))
    threshold = graph.constant("threshold", np.array(gate.threshold, np.float32))
    answers = graph.member(0, members[0], INPUT)
    exits = graph.filled("exits", graph.node("Shape", [INPUT], "count", start=0, end=1), 0)
    rows = ""  # those that the member before was asked about; at first all
    for number, member in enumerate(members[1:], 1):
        said = graph.node("Gather", [answers, rows], f"said{number}") if rows else answers
        confidence = graph.node("ReduceMax", [said, last], f"confidence{number}", keepdims=0)
        unsure = graph.node("Less", [confidence, threshold], f"unsure{number}")
        found = graph.node("Reshape", [graph.node("NonZero", [unsure], f"found{number}"), flat], f"among{number}")
        rows = graph.node("Gather", [rows, found], f"rows{number}") if rows else found
        further = graph.member(number, member, graph.node("Gather", [INPUT, rows], f"image{number}"))
        if gate.average:
            before = graph.node("Gather", [answers, rows], f"before{number}")
            asked = graph.constant(f"asked{number}", np.array(number, np.float32))
            all_asked = graph.constant(f"all_asked{number}", np.array(number + 1, np.float32))
            total = graph.node("Add", [graph.node("Mul", [before, asked], f"sum{number}"), further], f"total{number}")
            further = graph.node("Div", [total, all_asked], f"mean{number}")
        column = graph.node("Unsqueeze", [rows, last], f"column{number}")
        answers = graph.node("ScatterND", [answers, column, further], f"answers{number}")
        here = graph.filled(f"here{number}", graph.node("Shape", [rows], f"onward{number}"), number)
        exits = graph.node("ScatterND", [exits, column, here], f"exits{number}")
    graph.nodes.append(helper.make_node("Identity", [answers], [OUTPUT]))
    graph.nodes.append(helper.make_node("Identity", [exits], [EXIT]))
    batch = first.input[0].type.tensor_type.shape.dim[0].dim_param
    outputs = [first.output[0], helper.make_tensor_value_info(EXIT, TensorProto.INT64, [batch])]
    return graph.model(members[0], outputs)


class _Graph:
    """Nodes and constants as they are added, each under a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds one node, and gives the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [f"cascade/{name}"], name=f"cascade/{name}", **attributes))
        return f"cascade/{name}"

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds one constant, and gives its name."""
        self.constants.append(numpy_helper.from_array(value, f"cascade/{name}"))
        return f"cascade/{name}"

    def filled(self, name: str, shape: str, value: int) -> str:
        """Adds a tensor of the shape in `shape` whose every element is `value`."""
        tensor = helper.make_tensor("value", TensorProto.INT64, [1], [value])
        return self.node("ConstantOfShape", [shape], name, value=tensor)

    def member(self, number: int, member: onnx.ModelProto, image: str) -> str:
        """Adds the nodes of a member, which gets the images `image`, and gives the name of its probabilities."""
        prefix = MEMBER.format(number=number)
        graph = add_prefix_graph(inline_local_functions(member).graph, prefix)
        self.nodes.append(helper.make_node("Identity", [image], [prefix + INPUT]))
        self.nodes.extend(graph.node)
        self.constants.extend(graph.initializer)
        return prefix + OUTPUT

    def model(self, first: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """All of it as a model that takes what the member `first` takes."""
        proto = helper.make_model(
            helper.make_graph(self.nodes, "cascade", list(first.graph.input), list(outputs), self.constants),
            opset_imports=first.opset_import,
            producer_name="zoo",
        )
        proto.ir_version = first.ir_version
        return proto
