"""`zoo deploy triton`: a model repository of NVIDIA's Triton Inference Server."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.artifacts.manifest import INPUT, OUTPUT
from zoo.deploy.folder import Deployment, write_folder
from zoo.deploy.model import copy_model, open_model
from zoo.deploy.text import render
from zoo.errors import ModelError
from zoo.runtime.model import OnnxModel, TensorInfo
from zoo.serving.tensors import BYTES, datatype_of
from zoo.specs import ImageInput

_LABELS = "labels.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonTensor:
    """An input or output as Triton's configuration has it: type and dims, these without the batch axis, -1 is free."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    is_reshaped: bool = False
    """Whether the model lacks the one dim it is declared with: Triton knows no tensor without dims."""
    label_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonConfig:
    """What config.pbtxt says of a model."""

    name: str
    max_batch: int
    """0 where the model has no batch axis, which `dims` then are whole without."""
    inputs: tuple[TritonTensor, ...]
    outputs: tuple[TritonTensor, ...]

    @classmethod
    def of(cls, model: OnnxModel, max_batch: int) -> TritonConfig:
        """The configuration of a model. Raises ModelError for a tensor of a type that Triton lacks.

        Images have the size that needs no resizing inside the model: Triton makes batches of equal shapes only.
        """
        # Triton's own rule for models without a configuration.
        has_batch_axis = all(tensor.shape[:1] == (-1,) for tensor in (*model.inputs, *model.outputs))
        max_batch = max_batch if has_batch_axis else 0
        return cls(
            name=model.name,
            max_batch=max_batch,
            inputs=tuple(_tensor(model, tensor, max_batch) for tensor in model.inputs),
            outputs=tuple(_tensor(model, tensor, max_batch) for tensor in model.outputs),
        )

    @property
    def warmup_batches(self) -> Sequence[int]:
        """Batch sizes to run before the model is ready: none where the shape of an input is not known."""
        if any(-1 in tensor.dims for tensor in self.inputs):
            return ()
        return sorted({1, max(self.max_batch, 1)})

    def to_json(self) -> dict[str, Any]:
        """What clients need to know of it."""
        inputs = [{"name": each.name, "datatype": each.data_type, "dims": list(each.dims)} for each in self.inputs]
        return {"max_batch_size": self.max_batch, "inputs": inputs}


def deploy_triton(path: Path, repository: Path, *, max_batch: int) -> tuple[Deployment, TritonConfig]:
    """Writes the model in `path` into a repository, beside others in it, to be served in batches of up to `max_batch`.

    Raises ModelError for a model that cannot be served or is damaged, UsageError where a folder of its name in the
    repository is not as Zoo wrote it.
    """
    model = open_model(path)
    config = TritonConfig.of(model, max_batch)
    folder = repository / model.name
    files = write_folder(folder, lambda new: fill_model_folder(new, model, config))
    command = f"tritonserver --model-repository {shlex.quote(str(repository))}"
    return Deployment(folder=folder, files=files, next=command), config


def fill_model_folder(folder: Path, model: OnnxModel, config: TritonConfig) -> None:
    """Writes what Triton expects in the folder of one model. Raises ModelError where the model is not one file."""
    copy_model(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(render("config.pbtxt", config=config), encoding="utf-8")
    if model.manifest is not None:
        lines = [" ".join(label.split()) for label in model.manifest.labels]  # a line for each, whatever is in it
        (folder / _LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _tensor(model: OnnxModel, tensor: TensorInfo, max_batch: int) -> TritonTensor:
    datatype = datatype_of(tensor.type)
    if datatype is None:
        raise ModelError(f"{model.path} cannot be served: {tensor.name} is {tensor.type}, which Triton lacks")
    dims = tensor.shape[1:] if max_batch else tensor.shape
    if model.manifest is not None and tensor.name == INPUT:
        image = ImageInput.from_json(model.manifest.input)
        dims = (*dims[:-3], *image.resized, image.channels)
    return TritonTensor(
        name=tensor.name,
        data_type="TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}",
        dims=dims or (1,),
        is_reshaped=max_batch > 0 and not dims,
        label_file=_LABELS if model.manifest is not None and tensor.name == OUTPUT else None,
    )
