"""A torch module to an ONNX graph, without the exporter's chatter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.errors import ModelError

OPSET = 20
IR_VERSION = 10
"""ONNX Runtime 1.22 and later load these."""


def export_graph(
    module: nn.Module, example: Tensor, *, inputs: str, outputs: str, axes: dict[int, Any] | None = None
) -> onnx.ModelProto:
    """The graph of a module with one input tensor and one output tensor, everything in one file.

    `axes` are the dynamic axes of the input, by number. Raises ModelError where the exporter cannot handle the module.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        # The plain way to compute attention: what is traced of the others is laid out in memory as the exporter, which
        # takes attention apart itself, does not expect it where there is a mask.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=[inputs],
                output_names=[outputs],
                dynamic_shapes=(axes,) if axes else None,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot export to ONNX: {type(error).__name__}: {reason:.300}") from error
    assert program is not None
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    return proto


def write_traced(module: nn.Module, example: Tensor, path: Path, *, inputs: str, outputs: str) -> None:
    """Writes the graph of a module for inputs shaped like `example`, to be used here and now, not to be shipped.

    Traced, which takes a tenth of the time of `export_graph`, which is asked where tracing fails. Raises ModelError
    where neither can.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(), (example,), path, dynamo=False, input_names=[inputs], output_names=[outputs]
            )
    except Exception:
        path.write_bytes(export_graph(module, example, inputs=inputs, outputs=outputs).SerializeToString())
