"""The digest of a whole file inside that file: one damaged byte anywhere, and it is not taken for what it was.

The digest is of the file with zeros in the digest's place. It tells damage, not malice: for that there are signatures.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

from zoo.errors import ModelError

ONNX_KEY = "zoo.sha256"
_ZEROS = b"0" * 64
UNSEALED = _ZEROS.decode()
"""What stands in the digest's place before `seal`."""

_MARKS = {
    # How protobuf writes a metadata entry: the key with its length, the length of the value.
    "onnx": b"\n" + bytes([len(ONNX_KEY)]) + ONNX_KEY.encode() + b"\x12" + bytes([len(_ZEROS)]),
    "json": b'"sha256": "',
}


def seal(content: bytes, kind: str = "onnx") -> bytes:
    """The file `content`, in which `UNSEALED` stands as the metadata entry `ONNX_KEY` or the key `sha256`, sealed."""
    start = content.rindex(_MARKS[kind] + _ZEROS) + len(_MARKS[kind])
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + len(_ZEROS) :]


def check_seal(path: Path, kind: str = "onnx") -> bool:
    """Whether the file in `path` is sealed. Raises ModelError where it is and its content is another."""
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return False
        with content, memoryview(content) as view:
            mark = content.rfind(_MARKS[kind])
            if mark < 0:
                return False
            start = mark + len(_MARKS[kind])
            stop = start + len(_ZEROS)
            digest = hashlib.sha256(view[:start])
            digest.update(_ZEROS)
            digest.update(view[stop:])
            written = bytes(view[start:stop])
    if digest.hexdigest().encode() != written:
        raise ModelError(
            f"file is damaged: {path} (its content is not what its digest was made of); fetch or export it again"
        )
    return True
