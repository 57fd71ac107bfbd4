"""Training on activations at the freeze boundary, computed once instead of in every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from zoo.data.dataset import Sample
from zoo.data.store import labels
from zoo.finetune.extract import Extractor
from zoo.nn.augment import Augment
from zoo.nn.backbone import Backbone
from zoo.nn.batches import WHOLE, Batches, Share, View, shuffled
from zoo.nn.engine import generator, place, seconds_of
from zoo.nn.fold import folded
from zoo.nn.model import TransferModel

_EPOCHS_PER_VIEW = 4
_FEWEST_VIEWS = 3
_MOST_VIEWS = 8
_MOST_BYTES = 10 * 1024**3
_HALF_RANGE = 1e4
"""Activations above this are too near the largest float16, 65504, to be kept as such."""
_WORTH = 0.9
"""Keeping activations must take no more than this share of the time: it gives up the variety of fresh views."""
_MEASURED_IMAGES = 8
_MEASURED_ON_GPU = 64
"""Fewer images at once cost a GPU as much."""


class Prefix(nn.Module):
    """The first `count` stages of a backbone."""

    def __init__(self, backbone: Backbone, count: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(*backbone.stages[:count])

    def forward(self, images: Tensor) -> Any:
        """The activation after the last of the stages."""
        return self.stages(images)


class ActivationBatches:
    """A `Source` of activations before stage `entry`, kept in some views of each image.

    Each image shows one view an epoch, another one in the next. View 0 is the plain one that evaluation sees.
    """

    def __init__(
        self, samples: Sequence[Sample], *, extractor: Extractor, entry: int, views: Sequence[View], batch_size: int
    ) -> None:
        self.samples = samples
        self.entry = entry
        self._extractor = extractor
        self._views = views
        self._batch_size = batch_size
        self._labels = torch.from_numpy(labels(samples))

    def __len__(self) -> int:
        """Batches in one pass."""
        return math.ceil(len(self.samples) / self._batch_size)

    def plain(self, share: Share = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source`."""
        rows = self._extractor.of(self.samples, "activations")
        for start in share.starts(len(self.samples), self._batch_size):
            stop = start + self._batch_size // share.world
            yield torch.from_numpy(rows[start:stop].copy()).float(), self._labels[start:stop]

    def augmented(
        self, policy: Augment, *, seed: int, epoch: int, start: int = 0, share: Share = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source`; the policy is that of the views."""
        del policy
        for batch in shuffled(len(self.samples), len(self), seed=seed, epoch=epoch, start=start):
            indices = share.of(batch)
            views = (self._first_views(seed)[indices] + epoch) % len(self._views)
            rows = [self._rows[int(view)][int(index)] for view, index in zip(views, indices, strict=True)]
            yield torch.stack([torch.from_numpy(row.copy()) for row in rows]).float(), self._labels[indices]

    @cached_property
    def _rows(self) -> list[Any]:
        return [
            self._extractor.of(self.samples, f"activations, view {number} of {len(self._views)}", view)
            for number, view in enumerate(self._views, 1)
        ]

    def _first_views(self, seed: int) -> Tensor:
        return torch.randint(len(self._views), (len(self.samples),), generator=generator(seed, "views"))


def view_count(epochs: int) -> int:
    """Views to keep for so many epochs: each is seen about four times, less often in a short training."""
    return min(epochs, _MOST_VIEWS, max(_FEWEST_VIEWS, math.ceil(epochs / _EPOCHS_PER_VIEW)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the parts of training on one image take on this machine, in seconds."""

    read: float
    """Decoding and augmenting."""
    prefix: float
    """The frozen stages, forward."""
    suffix: float
    """The trained stages, forward and backward."""
    fetch: float
    """Reading one kept activation."""
    readers: int
    """Threads that read while a GPU computes; 0 where the same processor does both, one after the other."""
    activation_bytes: int
    largest: float
    """The largest magnitude in an activation."""

    @property
    def representable(self) -> bool:
        """Whether activations can be kept in half precision."""
        return self.largest <= _HALF_RANGE

    def decide(
        self, *, views: int, images: int, epochs: int, val_images: int, evaluations: int, by_counts: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        """Whether keeping activations pays, and the estimates that say so, in seconds.

        It does with more epochs than views, if reading is faster than computing again; `by_counts` only asks for the
        former, which comes out the same each time. Of validation images there is one view, seen at each of the
        `evaluations`.
        """
        once = self._after_reading(self.prefix)
        direct = images * epochs * self._after_reading(self.prefix + self.suffix)
        direct += val_images * (once + (evaluations - 1) * self.prefix)
        kept = images * (views * once + epochs * (self.fetch + self.suffix))
        kept += val_images * (once + evaluations * self.fetch)
        fits = views * images * self.activation_bytes <= _MOST_BYTES
        faster = epochs > views if by_counts else kept < _WORTH * direct
        pays = fits and self.representable and faster
        return pays, {"seconds_direct": direct, "seconds_kept": kept, **asdict(self)}

    def _after_reading(self, seconds: float) -> float:
        """What an image takes that is read and then computed on for `seconds`."""
        return max(self.read / self.readers, seconds) if self.readers else self.read + seconds


def measure_costs(
    model: TransferModel, batches: Batches, *, frozen: int, policy: Augment, fabric: Fabric
) -> Costs | None:
    """The costs of training `model` with its first `frozen` stages frozen; None where activations are no tensors.

    Nothing of the model is changed.
    """
    # From all over: the first ones are in memory also where not all of them have room.
    count = _MEASURED_IMAGES if fabric.device.type == "cpu" else _MEASURED_ON_GPU
    apart = max(1, len(batches.samples) // count)
    some = batches.samples[::apart][:count]
    few = Batches(some, store=batches.store, input_spec=batches.input_spec, batch_size=count)
    next(few.augmented(policy, seed=0, epoch=0))  # decodes
    began = time.perf_counter()
    images, _ = next(few.augmented(policy, seed=0, epoch=1))
    read = time.perf_counter() - began
    model.eval()
    inputs = place(images, fabric)
    activation = model.backbone.run_stages(inputs, 0, frozen)
    if not isinstance(activation, Tensor):
        return None
    activation = activation.detach()

    def prefix() -> None:
        with torch.no_grad(), fabric.autocast():
            float(model.backbone.run_stages(inputs, 0, frozen).sum())

    def suffix() -> None:
        with fabric.autocast():
            total = model(activation, frozen).sum()
        total.backward()
        float(total.detach())

    half = activation.half().cpu()
    with folded(model):  # as training will run it
        costs = Costs(
            read=read / len(images),
            prefix=seconds_of(prefix) / len(images),
            suffix=seconds_of(suffix) / len(images),
            fetch=seconds_of(lambda: place(half.clone().float(), fabric)) / len(images),
            readers=batches.readers,
            activation_bytes=half[0].nbytes,
            largest=float(activation.abs().max()),
        )
    model.zero_grad()
    return costs
