"""Requests and responses of the Open Inference Protocol v2 with the binary tensor and classification extensions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from zoo.artifacts.manifest import OUTPUT
from zoo.serving.model import ServedModel
from zoo.serving.tensors import (
    BYTES,
    ProtocolError,
    TensorSpec,
    binary_size,
    check_shape,
    datatype_of_array,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
_HEADS = 256
"""Those remembered of each model; then all are forgotten, which costs less than to find the oldest."""
_HEAD_BYTES = 4096
"""Longer ones are not remembered: what clients send must not fill the memory."""
_WRITTEN = 16


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output a client asked for, and in which form."""

    name: str
    binary: bool
    classes: int = 0
    """With the classification extension: how many of the best labels instead of the tensor."""


@dataclass(frozen=True, slots=True)
class PlacedInput:
    """One input as the head of a request announces it: its bytes follow the head, or its data stand in it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    """Of its bytes, in the order of inputs."""
    data: object
    is_files: bool


class Head:
    """What a request says before its binary tensors: all that does not depend on them."""

    __slots__ = ("id", "inputs", "names", "timeout", "wanted", "written")

    def __init__(
        self,
        inputs: tuple[PlacedInput, ...],
        wanted: tuple[WantedOutput, ...],
        *,
        identifier: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.inputs = inputs
        self.wanted = wanted
        self.names = tuple(output.name for output in wanted)
        self.id = identifier
        self.timeout = timeout
        """Seconds after which the client does not want the answer any more."""
        self.written: dict[object, bytes] = {}
        """Heads of answers to it, by the kinds and shapes of their tensors."""

    @property
    def recurs(self) -> bool:
        """Whether the same client may well send it again, to the byte."""
        return self.id is None and all(tensor.size is not None for tensor in self.inputs)

    def feeds(self, tail: memoryview) -> dict[str, NDArray[Any]]:
        """The tensors, given what follows the head. Raises ProtocolError where they do not fit what it says."""
        feeds: dict[str, NDArray[Any]] = {}
        for tensor in self.inputs:
            if tensor.size is None:
                array = from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)
                feeds[tensor.name] = _decode_base64(tensor.name, array) if tensor.is_files else array
                continue
            if tensor.size > len(tail):
                raise ProtocolError(f"binary_data_size of {tensor.name}: {tensor.size}; only {len(tail)} bytes follow")
            feeds[tensor.name] = from_binary(tensor.name, tensor.datatype, tensor.shape, tail[: tensor.size])
            tail = tail[tensor.size :]
        if len(tail):
            raise ProtocolError(f"{len(tail)} bytes too many after the last binary input")
        return feeds


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits the model."""

    head: Head
    feeds: Mapping[str, NDArray[Any]]


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """The answer to GET v2/models/NAME."""
    value: dict[str, Any] = {
        "name": model.name,
        "versions": list(versions),
        "platform": "onnx_onnxv1",
        "inputs": [tensor.to_json() for tensor in model.inputs],
        "outputs": [tensor.to_json() for tensor in model.outputs],
    }
    if model.labels:
        value["properties"] = {
            output.replace(OUTPUT, "labels", 1): orjson.dumps(list(names)).decode()
            for output, names in model.labels.items()
        }
    return value


def model_config(model: ServedModel, max_batch: int) -> dict[str, Any]:
    """The answer to GET v2/models/NAME/config: what Triton's own tools ask before they call a model."""

    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        free = 1 if max_batch > 1 else 0  # with a batch size, shapes are told without it
        return [
            {"name": spec.name, "data_type": _config_type(spec.datatype), "dims": list(spec.shape[free:])}
            for spec in specs
        ]

    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": max_batch if max_batch > 1 else 0,
        "input": tensors(model.inputs),
        "output": tensors(model.outputs),
        **({"dynamic_batching": {}} if max_batch > 1 else {}),
    }


class Requests:
    """Reads what a model is asked.

    Clients ask in the same words again and again, with other tensors behind them: such heads are read once. On a small
    network reading them takes as long as its answer.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._heads: dict[bytes, Head] = {}

    def read(self, body: bytes, length: str | None) -> InferRequest:
        """The request in `body`; `length` is Inference-Header-Content-Length, None where it was not sent.

        Raises ProtocolError for everything that does not fit the protocol or the model.
        """
        size = len(body) if length is None else _head_length(length, len(body))
        if length is not None and size == 0:
            return _raw_request(self._model, body)
        text = body[:size]
        head = self._heads.get(text)
        if head is None:
            head = read_head(self._model, _from_json(text))
            if head.recurs and size <= _HEAD_BYTES:
                if len(self._heads) >= _HEADS:
                    self._heads.clear()
                self._heads[text] = head
        return InferRequest(head, head.feeds(memoryview(body)[size:]))


def build_response(
    model: ServedModel, request: InferRequest, answers: Sequence[NDArray[Any]]
) -> tuple[bytes, int | None]:
    """The response body, and the length of its JSON part where binary tensors follow it."""
    head = request.head
    arrays = classified(model, head, answers)
    # FP16 exists in binary form only.
    binary = [wanted.binary or array.dtype == np.float16 for wanted, array in zip(head.wanted, arrays, strict=True)]
    tail = [to_binary(array) for array, is_binary in zip(arrays, binary, strict=True) if is_binary]
    if len(tail) < len(arrays) or any(array.dtype == object for array in arrays):
        text = _answer_head(model, head, arrays, binary)
        return (b"".join([text, *tail]), len(text)) if tail else (text, None)
    kinds = tuple([(array.dtype, array.shape) for array in arrays])
    written = head.written.get(kinds)
    if written is None:
        if len(head.written) >= _WRITTEN:
            head.written.clear()
        written = head.written[kinds] = _answer_head(model, head, arrays, binary)
    return b"".join([written, *tail]), len(written)


def classified(model: ServedModel, head: Head, answers: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs, as labels where the client asked for the best classes."""
    return [
        _classify(answer, wanted.classes, model.labels.get(wanted.name, ())) if wanted.classes else answer
        for wanted, answer in zip(head.wanted, answers, strict=True)
    ]


def _answer_head(model: ServedModel, head: Head, arrays: Sequence[NDArray[Any]], binary: Sequence[bool]) -> bytes:
    outputs = []
    for wanted, array, is_binary in zip(head.wanted, arrays, binary, strict=True):
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype_of_array(array),
            "shape": list(array.shape),
        }
        if is_binary:
            entry["parameters"] = {"binary_data_size": binary_size(array)}
        else:
            entry["data"] = to_json(array)
        outputs.append(entry)
    value: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if head.id is not None:
        value["id"] = head.id
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def read_head(model: ServedModel, request: object) -> Head:
    """The head of a request, given as JSON says it. Raises ProtocolError where it does not fit the model."""
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise ProtocolError("request must be a JSON object with a list of inputs")
    identifier = request.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise ProtocolError(f"id: {identifier!r:.40}; must be a string")
    inputs = _inputs(model, request["inputs"])
    return Head(inputs, _wanted(model, request), identifier=identifier, timeout=_timeout(request))


def _from_json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise ProtocolError(f"request is not JSON: {error}") from None


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def _head_length(header: str, size: int) -> int:
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
    return InferRequest(Head((), wanted), {spec.name: array})


def _inputs(model: ServedModel, entries: list[Any]) -> tuple[PlacedInput, ...]:
    specs = {spec.name: spec for spec in model.inputs}
    placed: dict[str, PlacedInput] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ProtocolError("every input must be an object with a name")
        name, datatype = entry["name"], entry.get("datatype")
        if name not in specs:
            raise ProtocolError(f"unknown input: {name!r:.80}; {model.name} has {', '.join(specs)}")
        if name in placed:
            raise ProtocolError(f"input given twice: {name!r}")
        if not isinstance(datatype, str):
            raise ProtocolError(f"input {name} has no datatype")
        shape = check_shape(name, entry.get("shape"))
        _check_fits(specs[name], datatype, shape, takes_files=name == model.image_input)
        size = _parameters(entry).get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            raise ProtocolError(f"binary_data_size of {name}: {size!r:.40}; must be a number of bytes")
        is_files = name == model.image_input and datatype == BYTES
        placed[name] = PlacedInput(name, datatype, shape, size, entry.get("data"), is_files)
    missing = [name for name in specs if name not in placed]
    if missing:
        raise ProtocolError(f"missing input: {', '.join(missing)}")
    return tuple(placed.values())


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


def _timeout(request: Mapping[str, Any]) -> float | None:
    """Triton's request parameter, in microseconds there; 0 is none."""
    timeout = _parameters(request).get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise ProtocolError(f"timeout: {timeout!r:.40}; must be a whole number of microseconds")
    return timeout / 1e6 or None


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
