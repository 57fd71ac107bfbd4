"""Tensors on the wire: protocol datatypes, JSON data, little-endian binary data."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTES = "BYTES"
_NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
}


class ProtocolError(Exception):
    """A request that cannot be answered, with the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    def forget(self) -> None:
        """Drops where and from what it was raised, to be called once it is told to the client.

        Its frames hold the request's images and the model, in a cycle with the future that it was raised from: all of
        that would stay in memory until Python looks for cycles.
        """
        self.__traceback__ = self.__context__ = None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, protocol datatype and shape of an input or output; -1 for a free axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As model metadata shows it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def datatype_of(onnx_type: str) -> str | None:
    """The protocol's name for an ONNX Runtime type such as `tensor(float)`; None where it has none."""
    return _ONNX.get(onnx_type)


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape in a request. Raises ProtocolError unless it is a list of whole numbers from 0."""
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise ProtocolError(f"shape of {name}: {shape!r:.80}; must be a list of whole numbers")
    return tuple(shape)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> NDArray[Any]:
    """The array of JSON `data`, flat or nested. Raises ProtocolError where it does not fit datatype and shape."""
    if not isinstance(data, list):
        raise ProtocolError(f"data of {name} must be a list")
    count = math.prod(shape)
    if datatype == BYTES:
        flat = _flatten(data)
        if not all(isinstance(item, str) for item in flat):
            raise ProtocolError(f"data of {name}: BYTES in JSON are strings")
        array = np.array([item.encode() for item in flat] or [], object)
    else:
        kind = _kind(name, datatype)
        if datatype == "FP16":
            raise ProtocolError(f"data of {name}: FP16 has no JSON form; send it as binary data")
        try:
            loose = _loose(data, kind)
            if loose.dtype.kind not in "biuf" or (loose.dtype.kind == "f") > (kind.kind == "f"):
                raise ValueError(f"{loose.dtype} values")
            array = loose.astype(kind)
            if kind.kind in "iu" and not np.array_equal(array, loose):
                raise ValueError("a value out of range")
        except (ValueError, TypeError, OverflowError) as error:
            raise ProtocolError(f"data of {name} is not {datatype}: {error}") from None
    if array.size != count:
        raise ProtocolError(f"data of {name}: {array.size} elements, shape {list(shape)} needs {count}")
    return array.reshape(shape)


def from_binary(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> NDArray[Any]:
    """The array of little-endian `raw` bytes. Raises ProtocolError where their number does not fit."""
    count = math.prod(shape)
    if datatype == BYTES:
        items = _split_bytes(name, raw)
        if len(items) != count:
            raise ProtocolError(f"binary data of {name}: {len(items)} elements, shape {list(shape)} needs {count}")
        array = np.empty(count, object)
        array[:] = items
        return array.reshape(shape)
    kind = _kind(name, datatype).newbyteorder("<")
    if len(raw) != count * kind.itemsize:
        raise ProtocolError(
            f"binary data of {name}: {len(raw)} bytes, {datatype} {list(shape)} needs {count * kind.itemsize}"
        )
    return np.frombuffer(raw, kind).reshape(shape)


def to_binary(array: NDArray[Any]) -> bytes:
    """The little-endian bytes of an array; an element of BYTES behind its length (uint32)."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def binary_size(array: NDArray[Any]) -> int:
    """How many bytes `to_binary` makes of an array."""
    return sum(4 + len(item) for item in array.ravel()) if array.dtype == object else array.nbytes


def to_json(array: NDArray[Any]) -> list[str] | NDArray[Any]:
    """The elements of an array, flat and row by row, for orjson, which writes NaN and infinity as null."""
    if array.dtype == object:
        return [item.decode(errors="replace") for item in array.ravel()]
    return np.ascontiguousarray(array).ravel()


def datatype_of_array(array: NDArray[Any]) -> str:
    """The protocol's name for an array's elements."""
    return next((name for name, kind in _NUMPY.items() if array.dtype == kind), BYTES)


def _kind(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in _NUMPY:
        raise ProtocolError(f"datatype of {name}: {datatype!r:.40}; one of {', '.join([*_NUMPY, BYTES])}")
    return np.dtype(_NUMPY[datatype])


def _loose(data: list[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The values as numpy reads them, so that what does not fit `kind` still shows."""
    found = np.array(data)
    if not found.size:  # numpy takes an empty list for floats
        return found.astype(kind)
    if kind == np.uint64 and all(type(value) is int for value in _flatten(data)):
        return np.array(data, kind)  # it would take a mixture of small and huge numbers for floats
    return found


def _flatten(data: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:  # not recursive: depth is the sender's choice
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def _split_bytes(name: str, raw: memoryview) -> list[bytes]:
    items: list[bytes] = []
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ProtocolError(f"binary data of {name}: cut off in the length of element {len(items)}")
        (size,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + size > len(raw):
            raise ProtocolError(f"binary data of {name}: element {len(items)} says {size} bytes, fewer follow")
        items.append(bytes(raw[at : at + size]))
        at += size
    return items
