"""A graph in half precision."""

from __future__ import annotations

import copy

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from zoo.export.graph import PREPROCESS, strip

_SENSITIVE = ("Softmax", "LayerNormalization", "ReduceMean")
"""Sums of many terms, whose range or precision halves do not have."""


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float16 but for its inputs, outputs, preprocessing and what is sensitive."""
    network, before = copy.deepcopy(proto), [n for n in proto.graph.node if n.name.startswith(PREPROCESS)]
    graph, made = network.graph, {name for node in before for name in node.output}
    behind = [node for node in proto.graph.node if not node.name.startswith(PREPROCESS)]
    handed_on = sorted(made & {name for node in behind for name in node.input})
    # The preprocessing is taken off and put back: the converter makes invalid graphs of nodes that it leaves alone.
    used = {name for node in before for name in node.input}
    constants = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del graph.node[:], graph.input[:]
    graph.node.extend(behind)
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in handed_on)
    half: onnx.ModelProto = convert_float_to_float16(
        network, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_SENSITIVE]
    )
    behind, kept = list(half.graph.node), [each for each in half.graph.initializer if each.name not in used]
    del half.graph.node[:], half.graph.input[:], half.graph.initializer[:]
    half.graph.node.extend([*before, *behind])
    half.graph.input.extend(proto.graph.input)
    half.graph.initializer.extend([*constants, *kept])
    OnnxModel(half).topological_sort()  # it also puts casts of outputs before what they cast
    strip(half)
    return half
