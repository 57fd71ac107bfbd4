"""Tensors survive the wire; what does not fit is refused with the reason."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from zoo.serving.tensors import BYTES, ProtocolError, from_binary, from_json, to_binary, to_json

KINDS = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "FP32": np.array([1.5, -3.25e-30], np.float32),
    "FP64": np.array([1 / 3, 1e300]),
}


@pytest.mark.parametrize("datatype", KINDS)
def test_round_trips(datatype: str) -> None:
    array = KINDS[datatype]
    assert np.array_equal(from_binary("x", datatype, (2,), memoryview(to_binary(array))), array)
    found = from_json("x", datatype, (1, 2), orjson.loads(_dumped(array)))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array[None])


def test_bytes_round_trip() -> None:
    array = np.array([b"", b"\xff\xd8jpeg", "grün".encode()], object)
    raw = to_binary(array)
    assert raw[:4] == b"\0\0\0\0"
    assert raw[4:8] == b"\6\0\0\0"
    assert from_binary("x", BYTES, (3,), memoryview(raw)).tolist() == array.tolist()
    assert from_json("x", BYTES, (2,), ["a", "b"]).tolist() == [b"a", b"b"]


def test_fp16_is_binary_only() -> None:
    array = np.array([1.5], np.float16)
    assert np.array_equal(from_binary("x", "FP16", (1,), memoryview(to_binary(array))), array)
    with pytest.raises(ProtocolError, match="FP16 has no JSON form"):
        from_json("x", "FP16", (1,), [1.5])


def test_nested_json_and_nan() -> None:
    assert from_json("x", "INT32", (2, 2), [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert _dumped(np.array([1.0, np.nan, np.inf])) == b"[1.0,null,null]"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("UINT8", (1,), [256], "not UINT8"),
        ("UINT8", (1,), [-1], "not UINT8"),
        ("INT32", (1,), [1.5], "not INT32: float64 values"),
        ("FP32", (1,), ["1"], "not FP32"),
        ("FP32", (2,), [1, [2]], "not FP32"),
        ("FP32", (3,), [1, 2], r"2 elements, shape \[3\] needs 3"),
        ("FP33", (1,), [1], "datatype of x: 'FP33'; one of BOOL"),
        ("FP32", (1,), None, "must be a list"),
        (BYTES, (1,), [3], "BYTES in JSON are strings"),
    ],
)
def test_json_that_does_not_fit(datatype: str, shape: tuple[int, ...], data: object, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        from_json("x", datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "raw", "message"),
    [
        ("FP32", b"\0" * 7, r"7 bytes, FP32 \[2\] needs 8"),
        (BYTES, b"\1\0\0", "cut off in the length of element 0"),
        (BYTES, b"\1\0\0\0a\5\0\0\0bc", "element 1 says 5 bytes, fewer follow"),
        (BYTES, b"\1\0\0\0a", r"1 elements, shape \[2\] needs 2"),
    ],
)
def test_binary_that_does_not_fit(datatype: str, raw: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        from_binary("x", datatype, (2,), memoryview(raw))


def test_a_deep_pit_of_brackets() -> None:
    deep: list[object] = ["a"]
    for _ in range(100_000):
        deep = [deep]
    assert from_json("x", BYTES, (1,), deep).tolist() == [b"a"]


def _dumped(array: np.ndarray) -> bytes:
    return orjson.dumps(to_json(array), option=orjson.OPT_SERIALIZE_NUMPY)
