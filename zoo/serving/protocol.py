"""Requests and responses of the Open Inference Protocol v2 with the binary tensor and classification extensions."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import OUTPUT
from zoo.serving.exits import ExitCounter
from zoo.serving.tensors import (
    BYTES,
    ProtocolError,
    TensorSpec,
    check_shape,
    datatype_of_array,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

EXTENSIONS = ("binary_tensor_data", "classification")
VERSION = "1"
"""Every model is served in one version."""


class ServedModel(Protocol):
    """A model as the server sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The tensors it takes."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The tensors it gives."""
        ...

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes by the output that gives their probabilities, where it knows them."""
        ...

    @property
    def image_input(self) -> str | None:
        """The input that also takes image files as BYTES."""
        ...

    @property
    def exits(self) -> ExitCounter | None:
        """Of a gated cascade: where images stopped."""
        ...

    def infer(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs. Raises ProtocolError for inputs the model refuses."""
        ...


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output a client asked for, and in which form."""

    name: str
    binary: bool
    classes: int = 0
    """With the classification extension: how many of the best labels instead of the tensor."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits the model."""

    id: str | None
    feeds: dict[str, NDArray[Any]]
    wanted: tuple[WantedOutput, ...]


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """The answer to GET v2/models/NAME."""
    value: dict[str, Any] = {
        "name": model.name,
        "versions": [VERSION],
        "platform": "onnx_onnxv1",
        "inputs": [tensor.to_json() for tensor in model.inputs],
        "outputs": [tensor.to_json() for tensor in model.outputs],
    }
    if model.labels:
        value["properties"] = {
            output.replace(OUTPUT, "labels", 1): json.dumps(list(names), ensure_ascii=False)
            for output, names in model.labels.items()
        }
    return value


def model_statistics(model: ServedModel, inferences: int) -> dict[str, Any]:
    """The answer to GET v2/models/NAME/stats: requests answered and, of a gated cascade, where images stopped.

    Name, version and count are those of Triton's statistics extension, whose durations are not kept.
    """
    value: dict[str, Any] = {"name": model.name, "version": VERSION, "inference_count": inferences}
    if model.exits is not None:
        value["exits"] = model.exits.to_json()
    return {"model_stats": [value]}


def parse_request(model: ServedModel, body: bytes, header: str | None) -> InferRequest:
    """The request in `body`; `header` is Inference-Header-Content-Length, None where it was not sent.

    Raises ProtocolError for everything that does not fit the protocol or the model.
    """
    length = len(body) if header is None else _header_length(header, len(body))
    if header is not None and length == 0:
        return _raw_request(model, body)
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"request is not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise ProtocolError("request must be a JSON object with a list of inputs")
    feeds = _feeds(model, request["inputs"], memoryview(body)[length:])
    identifier = request.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise ProtocolError(f"id: {identifier!r:.40}; must be a string")
    return InferRequest(identifier, feeds, _wanted(model, request))


def build_response(
    model: ServedModel, request: InferRequest, answers: Sequence[NDArray[Any]]
) -> tuple[bytes, int | None]:
    """The response body, and the length of its JSON part where binary tensors follow it."""
    outputs, tail = [], []
    for wanted, answer in zip(request.wanted, answers, strict=True):
        array = _classify(answer, wanted.classes, model.labels.get(wanted.name, ())) if wanted.classes else answer
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype_of_array(array),
            "shape": list(array.shape),
        }
        # FP16 exists in binary form only.
        if wanted.binary or array.dtype == np.float16:
            raw = to_binary(array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = to_json(array)
        outputs.append(entry)
    value: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": outputs}
    if request.id is not None:
        value["id"] = request.id
    head = json.dumps(value).encode()
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def _header_length(header: str, size: int) -> int:
    if not header.isascii() or not header.isdigit() or int(header) > size:
        raise ProtocolError(f"Inference-Header-Content-Length: {header!r:.40}; a whole number up to the body's {size}")
    return int(header)


def _raw_request(model: ServedModel, body: bytes) -> InferRequest:
    """The body is the bytes of the only input: an image file, or a tensor with at most one free axis, batch 1."""
    if len(model.inputs) != 1:
        raise ProtocolError(f"a raw request needs a model of one input; {model.name} has {len(model.inputs)}")
    spec = model.inputs[0]
    if spec.name == model.image_input:
        array = np.empty(1, object)
        array[0] = body
    else:
        shape = [1 if axis == 0 and size < 0 else size for axis, size in enumerate(spec.shape)]
        if shape.count(-1) > 1:
            raise ProtocolError(f"a raw request cannot tell the shape of {spec.name} {list(spec.shape)}; send JSON")
        if -1 in shape:
            known = from_binary(spec.name, spec.datatype, (0,), memoryview(b"")).itemsize
            known *= int(np.prod([size for size in shape if size >= 0]))
            shape[shape.index(-1)] = len(body) // max(known, 1)
        array = from_binary(spec.name, spec.datatype, tuple(shape), memoryview(body))
    wanted = tuple(WantedOutput(output.name, binary=True) for output in model.outputs)
    return InferRequest(None, {spec.name: array}, wanted)


def _feeds(model: ServedModel, entries: list[Any], tail: memoryview) -> dict[str, NDArray[Any]]:
    specs = {spec.name: spec for spec in model.inputs}
    feeds: dict[str, NDArray[Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ProtocolError("every input must be an object with a name")
        name, datatype = entry["name"], entry.get("datatype")
        if name not in specs:
            raise ProtocolError(f"unknown input: {name!r:.80}; {model.name} has {', '.join(specs)}")
        if name in feeds:
            raise ProtocolError(f"input given twice: {name!r}")
        if not isinstance(datatype, str):
            raise ProtocolError(f"input {name} has no datatype")
        shape = check_shape(name, entry.get("shape"))
        _check_fits(specs[name], datatype, shape, takes_files=name == model.image_input)
        size = _parameters(entry).get("binary_data_size")
        if size is None:
            array = from_json(name, datatype, shape, entry.get("data"))
            if name == model.image_input and datatype == BYTES:
                array = _decode_base64(name, array)
        else:
            if type(size) is not int or not 0 <= size <= len(tail):
                raise ProtocolError(f"binary_data_size of {name}: {size!r:.40}; {len(tail)} bytes follow the JSON")
            array = from_binary(name, datatype, shape, tail[:size])
            tail = tail[size:]
        feeds[name] = array
    if len(tail):
        raise ProtocolError(f"{len(tail)} bytes too many after the last binary input")
    missing = [name for name in specs if name not in feeds]
    if missing:
        raise ProtocolError(f"missing input: {', '.join(missing)}")
    return feeds


def _check_fits(spec: TensorSpec, datatype: str, shape: tuple[int, ...], *, takes_files: bool) -> None:
    if takes_files and datatype == BYTES:
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
            raise ProtocolError(f"shape of {spec.name}: {list(shape)}; image files as BYTES have shape [N] or [N, 1]")
        return
    if datatype != spec.datatype:
        also = " or BYTES (image files)" if takes_files else ""
        raise ProtocolError(f"datatype of {spec.name}: {datatype}; must be {spec.datatype}{also}")
    fits = len(shape) == len(spec.shape) and all(
        declared in (-1, size) for declared, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise ProtocolError(f"shape of {spec.name}: {list(shape)}; must fit {list(spec.shape)}")


def _decode_base64(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """JSON cannot hold an image file's bytes as they are."""
    decoded = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        try:
            decoded[index] = base64.b64decode(item, validate=True)
        except binascii.Error:
            raise ProtocolError(f"data of {name}: image files in JSON are base64; or send binary data") from None
    return decoded


def _wanted(model: ServedModel, request: Mapping[str, Any]) -> tuple[WantedOutput, ...]:
    known = [output.name for output in model.outputs]
    binary = _parameters(request).get("binary_data_output", False) is True
    entries = request.get("outputs")
    if not entries:
        return tuple(WantedOutput(name, binary) for name in known)
    if not isinstance(entries, list):
        raise ProtocolError("outputs must be a list")
    wanted = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in known:
            raise ProtocolError(f"unknown output: {name!r:.80}; {model.name} has {', '.join(known)}")
        parameters = _parameters(entry)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise ProtocolError(f"classification: {classes!r:.40}; must be how many classes to return")
        wanted.append(WantedOutput(name, parameters.get("binary_data", binary) is True, classes))
    return tuple(wanted)


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ProtocolError("parameters must be an object")
    return parameters


def _classify(array: NDArray[Any], count: int, labels: Sequence[str]) -> NDArray[Any]:
    """The best `count` entries of the last axis as BYTES `value:index[:label]`."""
    rows = array.reshape(-1, array.shape[-1])
    count = min(count, rows.shape[1])
    answer = np.empty((len(rows), count), object)
    for number, row in enumerate(rows):
        for rank, index in enumerate(np.argsort(-row, kind="stable")[:count]):
            label = f":{labels[index]}" if index < len(labels) else ""
            answer[number, rank] = f"{row[index]:.6f}:{index}{label}".encode()
    return answer.reshape(*array.shape[:-1], count)
