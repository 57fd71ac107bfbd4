"""ModelInfer: messages to requests that fit a model, and arrays to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.serving.grpc_messages import message
from zoo.serving.model import ServedModel
from zoo.serving.protocol import InferRequest, classified, read_head
from zoo.serving.tensors import BYTES, ProtocolError, datatype_of_array, to_binary

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def read_request(model: ServedModel, asked: Any) -> InferRequest:
    """The request in a ModelInferRequest. Raises ProtocolError where it does not fit the protocol or the model."""
    raw = list(asked.raw_input_contents)
    if raw and len(raw) != len(asked.inputs):
        raise ProtocolError(f"raw_input_contents: {len(raw)} for {len(asked.inputs)} inputs; one for each")
    inputs, tail = [], []
    for number, tensor in enumerate(asked.inputs):
        entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw and tensor.HasField("contents"):
            raise ProtocolError(f"input {tensor.name} has contents beside raw_input_contents; send one of them")
        if raw:
            entry["parameters"] = {"binary_data_size": len(raw[number])}
            tail.append(raw[number])
        elif tensor.datatype == BYTES:
            items = np.empty(len(tensor.contents.bytes_contents), object)
            items[:] = list(tensor.contents.bytes_contents)
            tail.append(to_binary(items))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            field = _CONTENTS.get(tensor.datatype)
            entry["data"] = list(getattr(tensor.contents, field)) if field else None
        inputs.append(entry)
    outputs = [{"name": each.name, "parameters": _parameters(each.parameters)} for each in asked.outputs]
    values = {"inputs": inputs, "outputs": outputs, "parameters": _parameters(asked.parameters)}
    head = read_head(model, {"id": asked.id, **values})
    return InferRequest(head, head.feeds(memoryview(b"".join(tail))))


def write_response(model: ServedModel, request: InferRequest, answers: Sequence[NDArray[Any]]) -> Any:
    """The ModelInferResponse, with its tensors as raw_output_contents."""
    answer = message("inference.ModelInferResponse")(
        model_name=model.name, model_version=model.version, id=request.head.id or ""
    )
    for wanted, array in zip(request.head.wanted, classified(model, request.head, answers), strict=True):
        answer.outputs.add(name=wanted.name, datatype=datatype_of_array(array), shape=array.shape)
        answer.raw_output_contents.append(to_binary(array))
    return answer


def _parameters(given: Any) -> dict[str, Any]:
    values = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, kind) if kind else None
    return values
