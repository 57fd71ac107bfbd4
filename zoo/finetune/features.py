"""Features of what is frozen: one pass over the images, by the fastest engine, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from zoo.artifacts.files import sha256_json
from zoo.data.dataset import Sample
from zoo.data.parallel import map_ahead
from zoo.data.store import ImageStore, labels
from zoo.finetune.cache import FeatureCache
from zoo.finetune.engines import WORTH_MACS, cpu_engine
from zoo.nn.engine import generator, place
from zoo.nn.model import state_digest
from zoo.nn.preprocess import Preprocess
from zoo.nn.taps import PooledTaps
from zoo.progress import Progress
from zoo.specs import ImageInput

_CHUNK_MACS = 2e9
_CHUNK = 64
_CHECKED_ROWS = 16
_TOLERANCE = 1e-3
"""Largest difference between a kept row and the same row now, beside the largest feature."""


class Features:
    """Pooled taps of a frozen backbone, [N, width] float32, for any samples of one data set."""

    def __init__(
        self,
        module: PooledTaps,
        *,
        input_spec: ImageInput,
        macs: int,
        store: ImageStore,
        fabric: Fabric,
        cache: FeatureCache,
        engines: Path,
        progress: Progress,
    ) -> None:
        """`macs` are multiply-adds per image; `engines` is the folder where prepared engines are kept."""
        self._module = module.eval()
        # Its own and not the model's, which lives on the model's device.
        self._preprocess = Preprocess(input_spec)
        self._macs = macs
        self._store = store
        self._fabric = fabric
        self._cache = cache
        self._engines = engines
        self._progress = progress
        self._digest = sha256_json([state_digest([module]), module.taps])
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, samples: Sequence[Sample], what: str) -> tuple[Tensor, Tensor]:
        """Features [N, width] and labels [N] of `samples`, called `what` in the progress."""
        files = hashlib.sha256("".join(sample.sha256 for sample in samples).encode()).hexdigest()
        if files in self._known:
            return self._known[files]
        key = {
            "schema": 1,
            "weights": self._digest,
            "input": asdict(self._preprocess.spec),
            "samples": files,
            "torch": torch.__version__,
            "device": self._fabric.device.type,
        }

        def fill(rows: NDArray[np.float32]) -> None:
            self._compute(samples, rows, what)

        def check(rows: NDArray[np.float32]) -> bool:
            return self._agrees(samples, rows)

        rows = self._cache.get(key, (len(samples), self._module.width), fill, check)
        self._known[files] = torch.from_numpy(np.array(rows)), torch.from_numpy(labels(samples))
        return self._known[files]

    def _compute(self, samples: Sequence[Sample], rows: NDArray[np.float32], what: str) -> None:
        chunk = max(1, min(_CHUNK, round(_CHUNK_MACS / self._macs)))
        starts = range(0, len(samples), chunk)
        workers = torch.get_num_threads()
        with _one_thread_each(), ThreadPoolExecutor(workers) as pool:
            engine = self._engine(len(samples))

            def images_of(start: int) -> Tensor:
                return self._images(samples[start : start + chunk])

            def features_of(start: int) -> Tensor:
                return engine(images_of(start))

            on_cpu = self._fabric.device.type == "cpu"
            # On the CPU every worker reads and computes; a GPU computes while the workers read.
            found: Iterable[Tensor] = (
                map_ahead(pool, features_of, starts, 2 * workers)
                if on_cpu
                else map(engine, map_ahead(pool, images_of, starts, 2 * workers))
            )
            with self._progress.task(f"features of {what}", len(samples)) as task:
                for start, features in zip(starts, found, strict=True):
                    rows[start : start + len(features)] = features.numpy()
                    task.advance(len(features))

    def _engine(self, count: int) -> Callable[[Tensor], Tensor]:
        if self._fabric.device.type == "cpu" and count * self._macs >= WORTH_MACS:
            spec = self._preprocess.spec
            example = torch.zeros(1, spec.channels, spec.height, spec.width)
            return cpu_engine(self._module, example, digest=self._digest, root=self._engines, progress=self._progress)
        return self._in_torch

    def _in_torch(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), self._fabric.autocast():
            features: Tensor = self._module(place(images, self._fabric))
            return features.float().cpu()

    def _images(self, samples: Sequence[Sample]) -> Tensor:
        with torch.inference_mode():
            images = [self._preprocess(torch.from_numpy(self._store.pixels(sample))[None]) for sample in samples]
            return torch.cat(images)

    def _agrees(self, samples: Sequence[Sample], rows: NDArray[np.float32]) -> bool:
        """Whether some rows, drawn at random, are what the module gives now."""
        drawn = torch.randperm(len(samples), generator=generator(self._digest, len(samples)))[:_CHECKED_ROWS]
        live = self._in_torch(self._images([samples[int(row)] for row in drawn]))
        kept = torch.from_numpy(rows[drawn.numpy()])
        tolerance = _TOLERANCE if self._fabric.device.type == "cpu" else 20 * _TOLERANCE
        return bool((live - kept).abs().max() <= tolerance * live.abs().max())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Torch on one thread, so that as many workers as there were threads run side by side without waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
