"""An exported model in two: what prepares images one by one, and the network behind it, which takes many at once.

Images of different sizes cannot be in one tensor. Prepared, they all have the size of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from zoo.artifacts.manifest import INPUT
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import open_session

_PREPROCESS = "preprocess/"
_FLOAT = 1
_BRANCHING = ("If", "Loop", "Scan")
"""Their graphs use values that are not among their inputs."""


class Halves:
    """The two halves of a model. Thread-safe: ONNX Runtime sessions are."""

    def __init__(self, before: ort.InferenceSession, behind: ort.InferenceSession) -> None:
        self._before = before
        self._behind = behind
        self._handed_on = behind.get_inputs()[0].name

    def run(self, images: Sequence[NDArray[np.uint8]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs for batches of images [N, H, W, 3], those of a batch being of one size: a row for each."""
        if len({batch.shape[1:] for batch in images}) == 1:
            images = [np.concatenate(images)] if len(images) > 1 else images
        prepared = [self._before.run(None, {INPUT: batch})[0] for batch in images]
        together = np.concatenate(prepared) if len(prepared) > 1 else prepared[0]
        answers: list[NDArray[Any]] = self._behind.run(outputs, {self._handed_on: together})
        return answers


def open_halves(model: OnnxModel) -> Halves | None:
    """The halves of a model, on the device and with the settings that it has; None where it is not of this form:
    plain files, cascades that look at an image more than once."""
    if model.manifest is None:
        return None
    parts = _split(model.path.read_bytes())
    if parts is None:
        return None
    before, behind = (
        open_session(model.path, device=model.device, device_id=model.device_id, settings=model.settings, content=part)
        for part in parts
    )
    return Halves(before, behind)


def _split(content: bytes) -> tuple[bytes, bytes] | None:
    before, behind = _message("Model").FromString(content), _message("Model").FromString(content)
    nodes = behind.graph.node
    preparing = [node for node in nodes if node.name.startswith(_PREPROCESS)]
    network = [node for node in nodes if not node.name.startswith(_PREPROCESS)]
    made = {name for node in preparing for name in node.output}
    needed = {name for node in network for name in node.input} | {output.name for output in behind.graph.output}
    if len(made & needed) != 1 or INPUT in needed or any(node.op_type in _BRANCHING for node in network):
        return None
    [handed_on] = made & needed
    _keep(before.graph, preparing)
    del before.graph.output[:]
    before.graph.output.add(name=handed_on)
    _keep(behind.graph, network)
    del behind.graph.input[:]
    given = behind.graph.input.add(name=handed_on)
    given.type.tensor_type.elem_type = _FLOAT
    return before.SerializeToString(), behind.SerializeToString()


def _keep(graph: Any, nodes: Sequence[Any]) -> None:
    """Leaves only `nodes` in a graph, and the constants that they use."""
    names, used = {node.name for node in nodes}, {name for node in nodes for name in node.input}
    for items, kept in ((graph.node, names), (graph.initializer, used)):
        left = [item for item in items if item.name in kept]
        del items[:]
        items.extend(left)


@cache
def _pool() -> DescriptorPool:
    """The part of onnx.proto that is needed here; what else is in a file is kept as it is."""
    file = FileDescriptorProto(name="zoo/onnx_outline.proto", package="outline", syntax="proto2")
    fields: Mapping[str, Mapping[str, tuple[int, str]]] = {
        "Model": {"graph": (7, "Graph")},
        "Graph": {
            "node": (1, "Node*"),
            "initializer": (5, "Tensor*"),
            "input": (11, "Value*"),
            "output": (12, "Value*"),
        },
        "Node": {"input": (1, "string*"), "output": (2, "string*"), "name": (3, "string"), "op_type": (4, "string")},
        "Tensor": {"name": (8, "string")},
        "Value": {"name": (1, "string"), "type": (2, "Type")},
        "Type": {"tensor_type": (1, "TensorType")},
        "TensorType": {"elem_type": (1, "int32")},
    }
    for message, known in fields.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in known.items():
            label = "LABEL_REPEATED" if kind.endswith("*") else "LABEL_OPTIONAL"
            field = described.field.add(name=name, number=number, label=label)
            element = kind.rstrip("*")
            if element in fields:
                field.type, field.type_name = field.TYPE_MESSAGE, f".outline.{element}"
            else:
                field.type = field.TYPE_STRING if element == "string" else field.TYPE_INT32
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def _message(name: str) -> Any:
    return GetMessageClass(_pool().FindMessageTypeByName(f"outline.{name}"))
