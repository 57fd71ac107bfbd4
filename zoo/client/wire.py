"""Requests and answers of the Open Inference Protocol v2, as a client writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError
from zoo.serving.tensors import BYTES, check_shape, datatype_of_array, from_binary, from_json, to_binary

HEAD_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A body, and the headers that say how to read it."""

    body: bytes
    headers: Mapping[str, str]


def infer_request(
    inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None, *, binary: bool = True
) -> Message:
    """A request for `outputs`, None for all of them; with `binary`, tensors follow the JSON as bytes, both ways.

    Raises UsageError for an array that the protocol has no datatype for.
    """
    entries: list[dict[str, Any]] = []
    tail = []
    for name, given in inputs.items():
        array = _sendable(name, np.asarray(given))
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of_array(array)}
        if binary:
            tail.append(to_binary(array))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = _json_data(name, array)
        entries.append(entry)
    request: dict[str, Any] = {"inputs": entries}
    if outputs is not None:
        wanted = {"parameters": {"binary_data": True}} if binary else {}
        request["outputs"] = [{"name": name, **wanted} for name in outputs]
    elif binary:
        request["parameters"] = {"binary_data_output": True}
    head = json.dumps(request, separators=(",", ":")).encode()
    if not binary:
        return Message(body=head, headers={"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEAD_LENGTH: str(len(head))}
    return Message(body=b"".join([head, *tail]), headers=headers)


def infer_answer(body: bytes, head_length: str | None) -> dict[str, NDArray[Any]]:
    """The arrays in an answer by their names, read-only; `head_length` is its header of that name.

    Raises ValueError, KeyError, TypeError or ProtocolError for a body that is no answer.
    """
    size = len(body) if head_length is None else int(head_length)
    tail = memoryview(body)[size:]
    arrays: dict[str, NDArray[Any]] = {}
    for output in json.loads(body[:size])["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], check_shape(output["name"], output["shape"])
        length = output.get("parameters", {}).get("binary_data_size")
        if length is None:
            arrays[name] = from_json(name, datatype, shape, output["data"])
        else:
            arrays[name] = from_binary(name, datatype, shape, tail[:length])
            tail = tail[length:]
    return arrays


def bytes_array(items: Sequence[bytes]) -> NDArray[Any]:
    """BYTES [N], such as image files."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _sendable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind in "USO":
        items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        if not all(isinstance(item, bytes) for item in items):
            raise UsageError(f"input {name}: objects that are neither bytes nor text; give numbers, bytes or text")
        return bytes_array(items).reshape(array.shape)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if datatype_of_array(native) == BYTES:
        raise UsageError(f"input {name}: {array.dtype}, which the protocol does not have; convert it, say to float32")
    return native


def _json_data(name: str, array: NDArray[Any]) -> list[Any]:
    if array.dtype == np.float16:
        raise UsageError(f"input {name}: float16 has no JSON form, and this server takes no binary tensors")
    if array.dtype != object:
        return array.ravel().tolist()
    try:
        return [item.decode() for item in array.ravel()]
    except UnicodeDecodeError:
        raise UsageError(f"input {name}: bytes that are no text, and this server takes no binary tensors") from None
