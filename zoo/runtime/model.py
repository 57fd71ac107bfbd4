"""An ONNX file ready to answer: its tensors, its manifest, its labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import INPUT, METADATA_KEY, ModelManifest
from zoo.artifacts.seal import check_seal
from zoo.errors import ModelError
from zoo.progress import Progress
from zoo.runtime.session import Device, Provider, find_provider, open_session
from zoo.runtime.settings import SessionSettings
from zoo.runtime.tuned import find_settings

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, ONNX Runtime type (such as `tensor(float)`) and shape of an input or output; -1 for a free axis."""

    name: str
    type: str
    shape: tuple[int, ...]


class OnnxModel:
    """One loaded model. Thread-safe: ONNX Runtime sessions are."""

    def __init__(
        self,
        path: Path,
        *,
        device: Device | Provider = "auto",
        device_id: int = 0,
        threads: int | None = None,
        settings: SessionSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Opens the file with `settings`, with so many `threads`, or, where neither is given, as it was tuned.

        `progress` is told where tuned settings belong to another file or machine. Raises ModelError for a damaged
        file, and the errors of `open_session`.
        """
        self.path = path
        self.name = path.stem
        sealed = path.is_file() and check_seal(path)
        if settings is None:
            settings = SessionSettings(threads=threads) if threads else None
        self.device, self.device_id = find_provider(device, device_id), device_id
        self.settings = settings or find_settings(path, self.device, progress)
        self.session = open_session(path, device=self.device, device_id=device_id, settings=self.settings)
        self.inputs = [_info(value) for value in self.session.get_inputs()]
        self.outputs = [_info(value) for value in self.session.get_outputs()]
        try:
            manifest = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError:
            raise ModelError(f"file is damaged: {path} (its metadata is no text); fetch or export it again") from None
        self.manifest = ModelManifest.from_json(manifest) if manifest is not None else None
        if sealed != (self.manifest is not None and self.manifest.is_sealed):
            lost = "manifest" if sealed else "digest of its content"
            raise ModelError(f"file is damaged: {path} (it has lost its {lost}); fetch or export it again")

    @property
    def provider(self) -> str:
        """The execution provider this session prefers."""
        return str(self.session.get_providers()[0])

    def require_manifest(self, verb: str) -> ModelManifest:
        """The manifest. Raises ModelError, saying what `verb` misses, for a model Zoo did not export."""
        if self.manifest is None:
            raise ModelError(
                f"model has no Zoo manifest (labels, preprocessing): {self.path}; `zoo {verb}` needs one that "
                "`zoo export` wrote, `zoo serve` takes any ONNX file as plain tensors"
            )
        return self.manifest

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The named outputs (all when None), in order, for the given inputs."""
        answers: list[NDArray[Any]] = self.session.run(outputs, dict(feeds))
        return answers

    def of_images(self, images: Sequence[Image], outputs: Sequence[str], batch: int = 16) -> list[NDArray[Any]]:
        """The named outputs, a row for each of some RGB images [H, W, 3], one at least, of any sizes.

        Equal sizes share a batch.
        """
        order, parts = list[int](), list[list[NDArray[Any]]]()
        for rows in batches_of_equal_size(images, batch):
            parts.append(self.run({INPUT: np.stack([images[row] for row in rows])}, outputs))
            order += rows
        back = np.argsort(order)
        return [np.concatenate(found)[back] for found in zip(*parts, strict=True)]


def batches_of_equal_size(images: Sequence[Image], batch: int) -> Iterator[list[int]]:
    """Row numbers in batches of at most `batch`, all images of a batch having one size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(row)
    for rows in by_size.values():
        for start in range(0, len(rows), batch):
            yield rows[start : start + batch]


def _info(value: Any) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorInfo(value.name, value.type, shape)
