"""What a frozen module gives for images: computed once, by the fastest engine, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.artifacts.files import sha256_json
from zoo.data.dataset import Sample
from zoo.data.parallel import map_ahead
from zoo.data.store import ImageStore
from zoo.finetune.cache import Array, FeatureCache
from zoo.finetune.engines import WORTH_MACS, cpu_engine
from zoo.nn.batches import View, image_pixels, view_pixels
from zoo.nn.engine import generator, one_thread_each, place
from zoo.nn.model import state_digest
from zoo.nn.preprocess import Preprocess
from zoo.progress import Progress
from zoo.specs import ImageInput

_CHUNK_MACS = 2e9
_CHUNK = 64
_CHECKED_ROWS = 16
_TOLERANCE = 1e-3
"""Largest difference between a kept row and the same row now, beside the largest number in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where images come from, what computes, and where results are kept: the same for all that one run extracts."""

    store: ImageStore
    input_spec: ImageInput
    fabric: Fabric
    cache: FeatureCache
    engines: Path
    """The folder where prepared engines are kept."""
    progress: Progress


class Extractor:
    """Rows of a frozen module, one per image, for any samples of one data set."""

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        macs: int,
        around: Surroundings,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        """`name` tells modules with the same weights apart, `macs` are its multiply-adds per image (roughly)."""
        self._module = module.eval()
        # Its own and not the model's, which lives on the model's device.
        self._preprocess = Preprocess(around.input_spec)
        self._around = around
        self._macs = macs
        self._dtype = dtype
        self._digest = sha256_json([state_digest([module]), name])
        self._known: dict[str, Array] = {}

    def of(self, samples: Sequence[Sample], what: str, view: View | None = None) -> Array:
        """Rows [N, ...] of `samples`, called `what` in the progress, in one view (as evaluation sees them when None).

        They may lie on disk and are read-only.
        """
        view = view or View()
        key = {
            "schema": 3,
            "module": self._digest,
            "input": asdict(self._preprocess.spec),
            "view": asdict(view),
            "samples": hashlib.sha256("".join(sample.sha256 for sample in samples).encode()).hexdigest(),
            "dtype": np.dtype(self._dtype).name,
            "torch": torch.__version__,
            "device": self._around.fabric.device.type,
        }
        name = sha256_json(key)
        if name not in self._known:
            # Of several processes one computes and the others read what it kept.
            with self._around.fabric.rank_zero_first():
                self._known[name] = self._around.cache.get(
                    key,
                    (len(samples), *self._shape),
                    self._dtype,
                    lambda rows: self._compute(samples, view, rows, what),
                    lambda rows: self._agrees(samples, view, rows),
                )
        return self._known[name]

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        spec = self._preprocess.spec
        return tuple(self._in_torch(torch.zeros(1, spec.channels, spec.height, spec.width)).shape[1:])

    def _compute(self, samples: Sequence[Sample], view: View, rows: Array, what: str) -> None:
        on_cpu = self._around.fabric.device.type == "cpu"
        # Small enough that all workers of a CPU have something to do; a GPU wants many images at once.
        chunk = max(1, min(_CHUNK, round(_CHUNK_MACS / self._macs))) if on_cpu else _CHUNK
        starts = range(0, len(samples), chunk)
        workers = torch.get_num_threads()
        with one_thread_each(), ThreadPoolExecutor(workers) as pool:
            engine = self._engine(len(samples))

            def images_of(start: int) -> Tensor:
                return self._images(samples[start : start + chunk], view)

            def rows_of(start: int) -> Tensor:
                return engine(images_of(start))

            # On the CPU every worker reads and computes; a GPU computes while the workers read.
            found: Iterable[Tensor] = (
                map_ahead(pool, rows_of, starts, 2 * workers)
                if on_cpu
                else map(engine, map_ahead(pool, images_of, starts, 2 * workers))
            )
            with self._around.progress.task(what, len(samples)) as task:
                for start, part in zip(starts, found, strict=True):
                    rows[start : start + len(part)] = part.numpy()
                    task.advance(len(part))

    def _engine(self, count: int) -> Callable[[Tensor], Tensor]:
        if self._around.fabric.device.type == "cpu" and count * self._macs >= WORTH_MACS:
            spec = self._preprocess.spec
            # Random, so that a wrong engine would show.
            example = torch.randn(1, spec.channels, spec.height, spec.width, generator=generator("example"))
            return cpu_engine(
                self._module,
                example,
                digest=self._digest,
                root=self._around.engines,
                progress=self._around.progress,
            )
        return self._in_torch

    def _in_torch(self, images: Tensor) -> Tensor:
        with torch.inference_mode(), self._around.fabric.autocast():
            rows: Tensor = self._module(place(images, self._around.fabric))
            return rows.float().cpu()

    def _images(self, samples: Sequence[Sample], view: View) -> Tensor:
        with torch.inference_mode():
            pixels = [
                view_pixels(
                    image_pixels(self._around.store, sample, view.policy), view, self._preprocess, sample.sha256
                )
                for sample in samples
            ]
            return self._preprocess.normalise(torch.stack(pixels))

    def _agrees(self, samples: Sequence[Sample], view: View, rows: Array) -> bool:
        """Whether some rows, drawn at random, are what the module gives now."""
        drawn = torch.randperm(len(samples), generator=generator(self._digest, len(samples)))[:_CHECKED_ROWS]
        live = self._in_torch(self._images([samples[int(row)] for row in drawn], view))
        kept = torch.from_numpy(rows[drawn.numpy()]).float()
        tolerance = _TOLERANCE if self._around.fabric.device.type == "cpu" else 20 * _TOLERANCE
        return bool((live - kept).abs().max() <= tolerance * live.abs().max())
