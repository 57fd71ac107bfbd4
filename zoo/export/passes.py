"""What the exporter writes slower than it need be, written again: every graph goes through here."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def simplify(proto: onnx.ModelProto) -> None:
    """Makes the normalisation of pixels a part of the first convolution; answers stay the same."""
    graph = _Graph(proto.graph)
    for node in proto.graph.node:
        if node.op_type == "Conv":
            _fold_normalisation(graph, node)
    graph.finish()


def _fold_normalisation(graph: _Graph, convolution: onnx.NodeProto) -> None:
    """Conv((x - mean) / std, W) -> Conv(x - mean, W / std), and where nothing is padded Conv(x, W / std) with a bias.

    Padding is with zeros, which are the mean: not so if the mean were part of the bias.
    """
    divide = graph.maker(convolution.input[0], "Div")
    subtract = graph.maker(divide.input[0], "Sub") if divide else None
    if divide is None or subtract is None:
        return
    mean, std = _per_channel(graph.value(subtract.input[1])), _per_channel(graph.value(divide.input[1]))
    weight = graph.value(convolution.input[1])
    if mean is None or std is None or weight is None or not mean.shape == std.shape == (1, weight.shape[1], 1, 1):
        return
    bias = graph.value(convolution.input[2]) if len(convolution.input) > 2 else np.zeros(len(weight), weight.dtype)
    if bias is None:
        return
    scaled = weight / std
    inputs = [subtract.output[0]]
    if not _pads(convolution):
        inputs, bias = [subtract.input[0]], bias - (scaled.astype(np.float64) * mean).sum((1, 2, 3)).astype(bias.dtype)
    weights = graph.constant(convolution.name + "/weight", scaled.astype(weight.dtype))
    convolution.input[:] = [*inputs, weights, graph.constant(convolution.name + "/bias", bias)]


def _per_channel(value: NDArray[Any] | None) -> NDArray[Any] | None:
    """[1, C, 1, 1] of a constant [1, C, 1, W] whose rows repeat one number."""
    if value is None or value.ndim != 4 or (value != value[..., :1]).any():
        return None
    return value[..., :1]


def _pads(convolution: onnx.NodeProto) -> bool:
    """Whether a convolution may see anything but its input."""
    given: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in convolution.attribute}
    return any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


class _Graph:
    """The nodes and constants of a graph by the names of their values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes = list(graph.node)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = Counter(name for node in graph.node for name in node.input)

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node that makes the value `name` where it is of this kind and the value is used once."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == kind and self._uses[name] == 1 else None

    def value(self, name: str) -> NDArray[Any] | None:
        """The value `name` where it is constant."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds a constant, and gives its name."""
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def finish(self) -> None:
        """Writes the nodes back, without those that no output depends on, and their constants."""
        used, kept = {output.name for output in self._graph.output}, list[onnx.NodeProto]()
        for node in reversed(self._nodes):
            if not used.isdisjoint(node.output):
                used.update(node.input)
                kept.append(node)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        for number in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[number].name not in used:
                del self._graph.initializer[number]
