"""What the server needs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.serving.exits import ExitCounter
from zoo.serving.tensors import TensorSpec


class ServedModel(Protocol):
    """A model as the server sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def version(self) -> str:
        """A whole number."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The tensors it takes."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The tensors it gives."""
        ...

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes by the outputs that give their probabilities [N, C], its own first."""
        ...

    @property
    def image_input(self) -> str | None:
        """The input that also takes image files as BYTES."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Where it comes from and how good it is, for people."""
        ...

    @property
    def exits(self) -> ExitCounter | None:
        """Of a gated cascade: where images stopped."""
        ...

    def check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Raises ProtocolError for tensors of fitting shapes that the model must not be asked about."""
        ...

    def decode(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """The pixels [H, W, 3] of an image file. Raises ProtocolError naming `name` where it cannot be read."""
        ...

    def infer(self, feeds: Sequence[Mapping[str, NDArray[Any]]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The named outputs: the rows of the first inputs, then those of the next. Raises ProtocolError for inputs the
        model refuses."""
        ...
