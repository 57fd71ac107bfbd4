"""An ONNX file as the server sees it; with a manifest it also takes image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import EXIT, INPUT
from zoo.data.images import check_size, decode_image
from zoo.errors import DataError, ModelError
from zoo.runtime.feeds import model_feeds
from zoo.runtime.halves import open_halves
from zoo.runtime.model import OnnxModel, TensorInfo
from zoo.serving.batching import Arrays, Feeds, Infer, Pace, joined
from zoo.serving.exits import ExitCounter
from zoo.serving.pace import measure_pace, same_answers
from zoo.serving.tensors import BYTES, ProtocolError, TensorSpec, datatype_of


class ServedOnnx:
    """An ONNX file as the server sees it; with a manifest it also takes image files."""

    def __init__(self, model: OnnxModel, *, name: str, version: str = "1", max_batch: int) -> None:
        """Raises ModelError where it takes or gives what the protocol lacks."""
        self.name = name
        self.version = version
        self.inputs: Sequence[TensorSpec] = [_spec(model, tensor) for tensor in model.inputs]
        self.outputs: Sequence[TensorSpec] = [_spec(model, tensor) for tensor in model.outputs]
        self._takes_text = any(tensor.datatype == BYTES for tensor in self.inputs)
        self._gives_text = any(tensor.datatype == BYTES for tensor in self.outputs)
        answers = model.manifest.answers if model.manifest else ()
        self.labels: Mapping[str, Sequence[str]] = {answer.output: answer.labels for answer in answers}
        self.image_input = INPUT if model.manifest else None
        self.facts = _facts(model)
        self.exits = _exit_counter(model, name)
        self._run: Infer = lambda feeds, outputs: model.run(joined(feeds), outputs)
        self.pace = self._measure(model, max_batch)
        """How it is best called, with at most `max_batch` rows at once; measured now, which warms it up, too."""

    def check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Raises ProtocolError for pixels that are none, or too many."""
        image = feeds.get(self.image_input) if self.image_input else None
        if image is None:
            return
        if 0 in image.shape:
            raise ProtocolError(f"no pixels: {INPUT} of shape {list(image.shape)}; send at least one")
        try:
            check_size(image.shape[2], image.shape[1], INPUT)
        except DataError as error:
            raise ProtocolError(str(error)) from None

    def decode(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """The pixels [H, W, 3] of an image file. Raises ProtocolError where it cannot be read."""
        try:
            return decode_image(content, name)
        except DataError as error:
            raise ProtocolError(str(error)) from None

    def infer(self, feeds: Sequence[Feeds], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs: the rows of the first inputs, then those of the next. Raises ProtocolError for inputs the
        model refuses."""
        if self._takes_text:
            feeds = [{name: _decoded(name, array) for name, array in each.items()} for each in feeds]
        hidden = [EXIT] if self.exits is not None and EXIT not in outputs else []
        wanted = [*outputs, *hidden]
        try:
            answers = self._run(feeds, wanted)
        except Exception as error:  # ONNX Runtime refuses, e.g. shapes that do not go together
            raise ProtocolError(f"{self.name} refuses the input: {' '.join(str(error).split()):.300}") from None
        if self.exits is not None:
            self.exits.add(answers.pop() if hidden else answers[wanted.index(EXIT)])
        return [_encoded(answer) for answer in answers] if self._gives_text else answers

    def _measure(self, model: OnnxModel, max_batch: int) -> Pace:
        tensors, names = [*self.inputs, *self.outputs], [output.name for output in self.outputs]
        joins = bool(self.inputs) and all(tensor.shape and tensor.shape[0] < 0 for tensor in tensors)

        def sample(rows: int) -> Feeds:
            return model_feeds(model, batch=rows, images=())[0]

        pace = measure_pace(self._run, sample, names, limit=max_batch, joins=joins)
        halves = open_halves(model) if pace.max_batch > 1 else None
        if halves is None:
            return pace

        def run(feeds: Sequence[Feeds], outputs: Sequence[str]) -> Arrays:
            return halves.run([each[INPUT] for each in feeds], outputs)

        together = [sample(pace.max_batch)]
        if not all(map(same_answers, run(together, names), self._run(together, names))):
            return pace
        self._run = run  # the whole model goes
        return replace(pace, any_size=INPUT)


def _facts(model: OnnxModel) -> dict[str, Any]:
    manifest = model.manifest
    if manifest is None:
        return {}
    accuracy = manifest.metrics.get("test_accuracy")
    return {
        "backbone": manifest.backbone,
        "strategy": manifest.strategy,
        "precision": manifest.precision,
        "license": manifest.weights_license,
        **({"accuracy": accuracy} if accuracy is not None else {}),
        "interval": (manifest.intervals95 or {}).get("test_accuracy"),
    }


def _exit_counter(model: OnnxModel, name: str) -> ExitCounter | None:
    cascade = model.manifest.cascade if model.manifest else None
    if cascade is None or cascade["kind"] != "gate":
        return None
    members = cascade["members"]
    return ExitCounter(name, [m["backbone"] for m in members], [m["exit_rate"] for m in members])


def _decoded(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """BYTES of the protocol as strings of ONNX, which are UTF-8."""
    try:
        return np.frompyfunc(bytes.decode, 1, 1)(array) if array.dtype == object else array
    except UnicodeDecodeError as error:
        raise ProtocolError(f"data of {name} is not text: {error}; send UTF-8") from None


def _encoded(array: NDArray[Any]) -> NDArray[Any]:
    return np.frompyfunc(str.encode, 1, 1)(array) if array.dtype == object else array


def _spec(model: OnnxModel, tensor: TensorInfo) -> TensorSpec:
    datatype = datatype_of(tensor.type)
    if datatype is None:
        raise ModelError(f"{model.path} cannot be served: {tensor.name} is {tensor.type}, which the protocol lacks")
    return TensorSpec(tensor.name, datatype, tensor.shape)
