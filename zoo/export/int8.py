"""A graph with weights and activations in eight bits.

Convolutions are quantised statically: ranges of activations are those seen on training images, weights are symmetric
per output channel, and what rounding the weights shifts on average is put back into the biases (Nagel et al. 2019,
Data-Free Quantization, section 4.2, with the measured mean), without which narrow networks lose several points.
Networks mainly of matrix products are quantised dynamically: their activations have outliers that no fixed range fits.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from zoo.artifacts.manifest import INPUT
from zoo.export.graph import PREPROCESS, strip
from zoo.runtime.model import Image
from zoo.runtime.session import open_session

Activations = Literal["uint8", "int8"]

_STATIC = ("Conv", "Relu", "Clip", "LeakyRelu", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")
"""What is quantised between the pixels and the head, which stays as it is: it costs nothing and decides everything."""
_DYNAMIC = ("MatMul", "Gemm")


class Quantiser:
    """One model of which versions in eight bits are made; `folder` is its own."""

    def __init__(
        self, proto: onnx.ModelProto, images: Sequence[Image], folder: Path, *, activations: Activations, threads: int
    ) -> None:
        self._proto = copy.deepcopy(proto)
        self._images = images
        self._folder = folder
        self._ranges = folder / "ranges.json"
        self._activations = QuantType.QUInt8 if activations == "uint8" else QuantType.QInt8
        self._threads = threads
        self._nodes = [node for node in self._proto.graph.node if not _is_preprocessing(node)]
        self.is_static = _weights(self._proto, ["Conv"]) >= _weights(self._proto, _DYNAMIC)
        self._shifts = self._measure_shifts() if self.is_static else {}

    @property
    def layers(self) -> list[str]:
        """The nodes whose weights are quantised, in the order of computation."""
        kinds = ("Conv",) if self.is_static else _DYNAMIC
        constants = {tensor.name for tensor in self._proto.graph.initializer}
        return [node.name for node in self._nodes if node.op_type in kinds and node.input[1] in constants]

    def quantise(self, first: int = 0) -> onnx.ModelProto:
        """The model in eight bits, its first layers, so many of them, as they were."""
        keep = self.layers[:first]
        target = self._folder / "quantised.onnx"
        if not self.is_static:
            source = self._folder / "float.onnx"
            source.write_bytes(self._proto.SerializeToString())
            wanted = [name for name in self.layers if name not in keep]
            with _quiet():
                quantize_dynamic(
                    source, target, per_channel=True, weight_type=QuantType.QInt8, nodes_to_quantize=wanted
                )
            return _cleaned(target)
        with _quiet():
            quantize_static(
                self._shifted(keep),
                target,
                _Reader(self._images),
                per_channel=True,
                activation_type=self._activations,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=[node.name for node in self._nodes if node.op_type in _STATIC],
                nodes_to_exclude=list(keep),
                # Kept from the first time on: ranges do not depend on what is quantised.
                calibration_cache_path=self._ranges,
            )
        return _cleaned(target)

    def _run(
        self, proto: onnx.ModelProto, wanted: Sequence[str], images: Sequence[Image]
    ) -> Iterator[list[NDArray[Any]]]:
        """The values named in `wanted` for one image after another."""
        exposed = copy.deepcopy(proto)
        del exposed.graph.output[:]
        exposed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
        path = self._folder / "exposed.onnx"
        path.write_bytes(exposed.SerializeToString())
        session = open_session(path, device="cpu", threads=self._threads)
        for image in images:
            yield session.run(list(wanted), {INPUT: image[None]})

    def _measure_shifts(self) -> dict[str, NDArray[Any]]:
        """By how much rounding its weights lowers the mean output of each convolution, per channel.

        Beside each convolution stands one with what rounding takes off its weights, averaged over its positions.
        """
        beside, constants = copy.deepcopy(self._proto), _constants(self._proto)
        graph = beside.graph
        graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3]), "positions"))
        convolutions = [node for node in self._nodes if node.name in self.layers]
        for node in convolutions:
            lost, shift = f"{node.name}/lost", f"{node.name}/shift"
            graph.initializer.append(numpy_helper.from_array(_rounding(constants[node.input[1]]), lost))
            graph.node.append(helper.make_node("Conv", [node.input[0], lost], [f"{lost}/output"]))
            graph.node[-1].attribute.extend(node.attribute)
            graph.node.append(helper.make_node("ReduceMean", [f"{lost}/output", "positions"], [shift], keepdims=0))
        names = [f"{node.name}/shift" for node in convolutions]
        totals: list[NDArray[Any]] = [np.zeros(1, np.float32)] * len(names)
        for found in self._run(beside, names, self._images):
            totals = [total + each for total, each in zip(totals, found, strict=True)]
        count = np.float32(len(self._images))
        return {node.name: total / count for node, total in zip(convolutions, totals, strict=True)}

    def _shifted(self, keep: Collection[str]) -> onnx.ModelProto:
        """The model as it was, with the shifts of those convolutions that are quantised in their biases."""
        proto, constants = copy.deepcopy(self._proto), _constants(self._proto)
        for node in proto.graph.node:
            if node.name in self._shifts and node.name not in keep:
                shift = self._shifts[node.name]
                bias = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(shift)
                name = f"{node.name}/shifted"
                proto.graph.initializer.append(numpy_helper.from_array(bias + shift, name))
                node.input[:] = [*node.input[:2], name]
        used = {name for node in proto.graph.node for name in node.input}
        for number in reversed(range(len(proto.graph.initializer))):
            if proto.graph.initializer[number].name not in used:
                del proto.graph.initializer[number]
        return proto


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Sequence[Image]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Image] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}


def _rounding(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is lost when weights [O, ...] are rounded to 127 steps of the largest one of each output channel."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    step = np.where(largest > 0, largest / 127, 1).reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float32)
    lost: NDArray[np.float32] = (weight - np.round(weight / step) * step).astype(np.float32)
    return lost


def _weights(proto: onnx.ModelProto, kinds: Sequence[str]) -> int:
    """How many weights nodes of these kinds have."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in proto.graph.initializer}
    return sum(sizes.get(node.input[1], 0) for node in proto.graph.node if node.op_type in kinds)


def _constants(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _is_preprocessing(node: onnx.NodeProto) -> bool:
    return str(node.name).startswith(PREPROCESS)


def _cleaned(path: Path) -> onnx.ModelProto:
    proto = onnx.load(path)
    strip(proto)
    return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of ONNX Runtime's quantiser."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
