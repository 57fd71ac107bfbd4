"""Models for the suite, in which every datatype of the protocol occurs.

    python tests/conformance/models.py FOLDER

Each output is the input before it: `kinds` has one of every datatype that JSON can say, `half` one of FP16.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

KINDS = ("BOOL", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)), "FLOAT", "DOUBLE", "STRING")


def write(folder: Path) -> list[Path]:
    """Writes the files, and gives their paths."""
    return [_copies(folder / "kinds.onnx", KINDS), _copies(folder / "half.onnx", ["FLOAT16"])]


def _copies(path: Path, kinds: Sequence[str]) -> Path:
    names = [kind.lower() for kind in kinds]

    def tensors(suffix: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name + suffix, getattr(TensorProto, kind), ["n", 2])
            for name, kind in zip(names, kinds, strict=True)
        ]

    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in names]
    graph = helper.make_graph(nodes, path.stem, tensors("_in"), tensors("_out"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]))
