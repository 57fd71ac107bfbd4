"""What takes part in a measurement: an exported model, or whatever else answers the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.manifest import INPUT
from zoo.bench.memory import memory_mb
from zoo.errors import ModelError, ZooError
from zoo.progress import Progress
from zoo.runtime.bound import bind
from zoo.runtime.feeds import Feeds, image_feeds, model_feeds
from zoo.runtime.model import OnnxModel
from zoo.runtime.session import Device, Provider, find_provider
from zoo.runtime.settings import SessionSettings
from zoo.runtime.trace import trace

Images = Sequence[NDArray[np.uint8]]


class OnnxContender:
    """A model in ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        *,
        device: Device | Provider,
        settings: SessionSettings | None,
        progress: Progress,
        bound: bool = False,
    ) -> None:
        """`bound`: tensors stay on the device (IO binding)."""
        began = time.perf_counter()
        self._model = OnnxModel(path, device=device, settings=settings, progress=progress)
        self.load_ms = (time.perf_counter() - began) * 1e3
        self._device = find_provider(device)
        self.path, self.provider, self.settings = path, self._model.provider, self._model.settings
        self.threads = self.settings.threads
        self.bound = bound

    def feeds(self, batch: int, images: Images) -> list[Feeds]:
        """Inputs for it."""
        return model_feeds(self._model, batch=batch, images=images)

    def call(self, feeds: Feeds) -> Callable[[], object]:
        """What answers them."""
        return bind(self._model.session, feeds) if self.bound else partial(self._model.run, feeds)

    def facts(self, feeds: Sequence[Feeds]) -> dict[str, Any]:
        """What is known of it beside its times."""
        seen = trace(self.path, feeds, device=self._device, settings=self.settings)
        manifest = self._model.manifest
        return {
            "io_binding": self.bound,
            "settings": self.settings.to_json(),
            "memory_mb": memory_mb(self.path, feeds[0], provider=self._device, settings=self.settings),
            "nodes": seen.nodes,
            "preprocess_ms": None if manifest is None else seen.preprocess_ms,
            "branches": _branches(self._model, seen.part_ms),
            "cascade": manifest.cascade["kind"] if manifest and manifest.cascade else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContender:
    """A finished run, answering in the engine it was trained with."""

    path: Path
    provider: str
    """The engine, such as `torch eager`."""
    threads: int
    load_ms: float
    height: int
    width: int
    answer: Callable[[NDArray[np.uint8]], object]
    """Takes uint8 images [N, H, W, 3], as the exported model does."""

    def feeds(self, batch: int, images: Images) -> list[Feeds]:
        """Inputs for it."""
        return image_feeds(self.height, self.width, batch=batch, images=images)

    def call(self, feeds: Feeds) -> Callable[[], object]:
        """What answers them."""
        return partial(self.answer, feeds[INPUT])

    def facts(self, feeds: Sequence[Feeds]) -> dict[str, Any]:
        """What is known of it beside its times: nothing."""
        del feeds
        return {}


Contender = OnnxContender | RunContender


def first_call(call: Callable[[], object], path: Path, batch: int) -> None:
    """Calls once. Raises ModelError where the model does not take such a batch."""
    try:
        call()
    except ZooError:
        raise
    except Exception as error:  # ONNX Runtime's own exception types are not part of its public interface
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not run at batch {batch}: {reason:.200}; try --batch 1") from None


def _branches(model: OnnxModel, part_ms: Mapping[str, float]) -> dict[str, float] | None:
    cascade = model.manifest.cascade if model.manifest else None
    if cascade is None:
        return None
    # Nodes are named after the member they belong to; what the runtime adds is not.
    members = {f"member{number}": member["backbone"] for number, member in enumerate(cascade["members"])}
    found = {f"{number}: {name}": part_ms.get(part, 0.0) for number, (part, name) in enumerate(members.items())}
    return {**found, "rest": sum(taken for part, taken in part_ms.items() if part not in members)}
