"""Tensors as the Open Inference Protocol writes them, after its text and not after any server's code."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

NUMPY = {
    "BOOL": np.dtype(np.bool_),
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
BYTES = "BYTES"
IN_JSON = {*NUMPY, BYTES} - {"FP16"}
"""FP16 has no form in JSON."""
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Fields of InferTensorContents; FP16 has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor with its name. Elements of BYTES are `bytes`."""

    name: str
    datatype: str
    array: np.ndarray

    @property
    def head(self) -> dict[str, Any]:
        """What is said of it beside its data."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.array.shape)}

    def row(self, number: int) -> Tensor:
        """One row, as a tensor of one."""
        return replace(self, array=self.array[number : number + 1])

    def to_json(self, *, nested: bool = False) -> dict[str, Any]:
        """As an entry of inputs."""
        data = (self.array if nested else self.array.ravel()).tolist()
        return {**self.head, "data": _strings(data) if self.datatype == BYTES else data}

    def to_binary(self) -> tuple[dict[str, Any], bytes]:
        """As an entry of inputs, and the bytes behind the JSON."""
        raw = self.to_raw()
        return {**self.head, "parameters": {"binary_data_size": len(raw)}}, raw

    def to_raw(self) -> bytes:
        """Row by row, little-endian; an element of BYTES behind its length."""
        if self.datatype == BYTES:
            return b"".join(struct.pack("<I", len(item)) + item for item in self.array.ravel())
        return self.array.astype(self.array.dtype.newbyteorder("<")).tobytes()

    @classmethod
    def of(cls, head: Mapping[str, Any], *, data: Sequence[Any] | None = None, raw: bytes | None = None) -> Tensor:
        """An entry of outputs, with JSON data or bytes."""
        datatype, shape = head["datatype"], tuple(head["shape"])
        if raw is not None and datatype == BYTES:
            flat = _objects(_split(raw))
        elif raw is not None:
            flat = np.frombuffer(raw, NUMPY[datatype].newbyteorder("<"))
        elif datatype == BYTES:
            flat = np.array(data, object).ravel()
            flat = _objects([item.encode() if isinstance(item, str) else item for item in flat])
        else:
            flat = np.array(data, NUMPY[datatype]).ravel()
        assert flat.size == math.prod(shape), f"{head['name']}: {flat.size} elements, shape {list(shape)}"
        return cls(name=head["name"], datatype=datatype, array=flat.reshape(shape))


def sample(spec: Mapping[str, Any], *, rows: int = 1) -> Tensor:
    """A tensor that fits what metadata say: `rows` for a free first axis, 4 for other free ones."""
    datatype = spec["datatype"]
    shape = [(4 if axis else rows) if size < 0 else size for axis, size in enumerate(spec["shape"])]
    numbers = np.arange(math.prod(shape))
    if datatype == BYTES:
        array = _objects([b"%d" % number for number in numbers])
    elif datatype == "BOOL":
        array = numbers % 3 == 0
    elif datatype.startswith("FP"):
        array = (numbers % 64 / 8 - 2).astype(NUMPY[datatype])  # exact in all of them
    else:
        array = (numbers * 7 % 100).astype(NUMPY[datatype])
    return Tensor(name=spec["name"], datatype=datatype, array=array.reshape(shape))


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Whether two answers say the same, floats up to rounding, in whatever order."""

    def by_name(tensors: Sequence[Tensor]) -> list[Tensor]:
        return sorted(tensors, key=lambda tensor: tensor.name)

    return len(ours) == len(theirs) and all(
        (a.name, a.datatype, a.array.shape) == (b.name, b.datatype, b.array.shape) and _close(a.array, b.array)
        for a, b in zip(by_name(ours), by_name(theirs), strict=True)
    )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind == "f":
        return bool(np.allclose(a.astype(float), b.astype(float), rtol=1e-3, atol=1e-5, equal_nan=True))
    return bool((a == b).all())


def _strings(data: Any) -> Any:
    return [_strings(each) for each in data] if isinstance(data, list) else data.decode()


def _objects(items: Sequence[bytes]) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _split(raw: bytes) -> list[bytes]:
    items, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        items.append(raw[at + 4 : at + 4 + size])
        assert len(items[-1]) == size, "BYTES are cut off"
        at += 4 + size
    return items
