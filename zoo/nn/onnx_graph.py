"""A torch module to an ONNX graph, without the exporter's chatter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.errors import ModelError
from zoo.nn.resizing import onnx_translations

OPSET = 20
IR_VERSION = 10
"""ONNX Runtime 1.22 and later load these."""


def export_graph(
    module: nn.Module, example: Tensor, *, inputs: str, outputs: Sequence[str], axes: dict[int, Any] | None = None
) -> onnx.ModelProto:
    """The graph of a module with one input tensor, everything in one file.

    `axes` are the dynamic axes of the input, by number. Raises ModelError where the exporter cannot handle the module.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _plain_attention():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=[inputs],
                output_names=outputs,
                dynamic_shapes=(axes,) if axes else None,
                opset_version=OPSET,
                custom_translation_table=onnx_translations(),
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


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as the exporter takes it apart, for the length of a `with` block: in four dimensions, and computed in
    the plain way, since what other ways give is laid out in memory as it does not expect it where there is a mask."""
    usual: Any = functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **more: Any
    ) -> Tensor:
        if query.ndim <= 4 or attn_mask is not None:
            plain: Tensor = usual(query, key, value, attn_mask, *rest, **more)
            return plain
        found = usual(*(each.flatten(0, -4) for each in (query, key, value)), None, *rest, **more)
        unflattened: Tensor = found.reshape(*query.shape[:-1], value.shape[-1])
        return unflattened

    functional.scaled_dot_product_attention = attention
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        functional.scaled_dot_product_attention = usual


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
        path.write_bytes(export_graph(module, example, inputs=inputs, outputs=[outputs]).SerializeToString())
