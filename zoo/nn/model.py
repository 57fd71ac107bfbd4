"""The network that is trained and exported: preprocessing, a staged backbone, a head; and what of it is frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from zoo.nn.backbone import Backbone
from zoo.nn.preprocess import Preprocess
from zoo.nn.taps import Taps
from zoo.specs import ImageInput


class TransferModel(nn.Module):
    """Raw images in, logits out; the first `frozen_stages` stages never change.

    A frozen stage stays in eval mode whatever `train()` says (BatchNorm statistics and dropout included), its
    parameters take no gradient and no graph is kept for them. The pool is frozen with the last stage.
    `keep_statistics` holds all BatchNorm statistics at their pretrained values while their affine parameters train:
    batches of a small data set make poor statistics. Logits are divided by `temperature`, which is 1 while training.
    """

    temperature: Tensor

    def __init__(
        self, *, backbone: Backbone, head: nn.Module, input_spec: ImageInput, taps: Taps | None = None
    ) -> None:
        """`taps` are stages whose mean activations stand before the embedding in the head's input."""
        super().__init__()
        backbone.source_head = None  # its parameters belong to the source task
        self.preprocess = Preprocess(input_spec)
        self.backbone = backbone
        self.head = head
        self.taps = taps or {}
        self.register_buffer("temperature", torch.ones(()))
        self.frozen_stages = 0
        self.keep_statistics = False
        self._held: list[nn.Parameter] = []

    def freeze(self, stages: int) -> None:
        """Freezes the first `stages` stages (with all of them, the pool too) and thaws the rest."""
        self.frozen_stages = stages
        self.requires_grad_(True)
        for module in self.frozen_modules():
            module.requires_grad_(False)
        for parameter in self._held:
            parameter.requires_grad_(False)
        self.train(self.training)

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keeps these parameters, and no others, as they are in stages that train."""
        self._held = list(parameters)
        self.freeze(self.frozen_stages)

    def frozen_modules(self) -> Iterator[nn.Module]:
        """The modules that must not change."""
        yield from self.backbone.stages[: self.frozen_stages]
        if self.frozen_stages == len(self.backbone.stages):
            yield self.backbone.pool

    def train(self, mode: bool = True) -> Self:
        """Train mode for what is trained, eval mode for what is frozen."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.keep_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def run(self, inputs: Tensor, entry: int = 0) -> tuple[Any, Tensor]:
        """The last activation and the features [N, D] of inputs of stage `entry`: of normalised images for 0.

        The features are the taps, bottom up, and the embedding.
        """
        boundary = max(entry, self.frozen_stages)
        with torch.no_grad():
            activation, lower = self.backbone.run_taps(inputs, self.taps, entry, boundary)
        activation, upper = self.backbone.run_taps(activation, self.taps, boundary)
        # Also when everything is frozen: the pool then takes no gradient, but costs next to nothing.
        embedding: Tensor = self.backbone.pool(activation)
        return activation, torch.cat([*lower, *upper, embedding], 1) if self.taps else embedding

    def forward(self, inputs: Tensor, entry: int = 0) -> Tensor:
        """Logits [N, C] of inputs of stage `entry`: of normalised images [N, 3, height, width] for 0."""
        return self.classify(self.run(inputs, entry)[1])

    def classify(self, embeddings: Tensor) -> Tensor:
        """Logits [N, C] of features [N, D], in single precision also under autocast: half of it would make ties."""
        device = embeddings.device.type
        # Entered only where there is something to turn off: an export would find the context in its graph.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            return cast("Tensor", self.head(embeddings.float())) / self.temperature


def state_digest(modules: Iterable[nn.Module]) -> str:
    """A sha256 over every parameter and buffer of `modules`, names, shapes and bits."""
    return tensors_digest(
        (f"{number}.{name}", tensor)
        for number, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    )


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A sha256 over names, shapes and bits of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()
