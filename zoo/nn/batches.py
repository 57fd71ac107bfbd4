"""Samples to batches: plain for evaluation, augmented for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from zoo.data.dataset import Sample
from zoo.data.parallel import map_ahead
from zoo.data.store import ImageStore
from zoo.nn.augment import Augment, augment_image, warp_batch
from zoo.nn.engine import generator, one_thread_each
from zoo.nn.preprocess import Preprocess
from zoo.specs import ImageInput

T = TypeVar("T")

_PREPARED_BYTES = 1024**3
_OF_PLAIN: tuple[Augment, ...] = ("none", "affine")
"""The policies that start from the plain view; the others cut their own out of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at every image: as evaluation sees it (number 0), or changed at random, always in the same way."""

    policy: Augment = "none"
    seed: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part that one of several processes takes: all of it where there is one."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """Its part of one batch; parts differ in size by one at most."""
        return torch.tensor_split(batch, self.world)[self.rank]

    def starts(self, samples: int, batch_size: int) -> range:
        """Where the batches begin that it takes from one pass in order, each for one process."""
        own = batch_size // self.world
        return range(self.rank * own, samples, self.world * own)


WHOLE = Share()


class Source(Protocol):
    """Where training and evaluation get batches from: inputs of stage `entry`, and labels [N], on the CPU."""

    @property
    def samples(self) -> Sequence[Sample]:
        """All samples, in order."""

    @property
    def entry(self) -> int:
        """The stage that takes the inputs: 0 where they are images."""

    def __len__(self) -> int:
        """Batches in one pass."""

    def plain(self, share: Share = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in order, exactly as the exported model will see the images; of several processes each takes every
        so-many-th batch."""

    def augmented(
        self, policy: Augment, *, seed: int, epoch: int, start: int = 0, share: Share = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in the shuffled order of `epoch`, from batch `start` on, and a share of each batch.

        It depends on `seed` and `epoch` alone.
        """


class Batches:
    """Batches of one list of samples: normalised images [N, 3, height, width] and labels [N], on the CPU."""

    entry = 0

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        store: ImageStore,
        input_spec: ImageInput,
        batch_size: int,
        readers: int = 0,
    ) -> None:
        """`readers` threads prepare batches ahead while a GPU computes; on the CPU, which is busy itself, none does."""
        self.samples = samples
        self.store = store
        self.input_spec = input_spec
        self._batch_size = batch_size
        self.readers = readers
        # Its own and not the model's, which lives on the model's device.
        self._preprocess = Preprocess(input_spec)
        self._prepared: dict[str, Tensor] = {}
        self._room = _PREPARED_BYTES

    def __len__(self) -> int:
        """Batches in one pass."""
        return math.ceil(len(self.samples) / self._batch_size)

    def plain(self, share: Share = WHOLE) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source`."""

        def batch(start: int) -> tuple[Tensor, Tensor]:
            rows = self.samples[start : start + self._batch_size // share.world]
            pixels = torch.stack([self._plain_pixels(sample) for sample in rows])
            return self._preprocess.normalise(pixels), _labels(rows)

        return self._ahead(batch, share.starts(len(self.samples), self._batch_size))

    def augmented(
        self, policy: Augment, *, seed: int, epoch: int, start: int = 0, share: Share = WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Source`."""

        def batch(samples: Tensor) -> tuple[Tensor, Tensor]:
            indices = share.of(samples).tolist()
            rows = [self.samples[index] for index in indices]
            # Each image has its own, so that it looks the same whatever batch or share of one it is in.
            randomness = [generator(seed, "augment", epoch, index) for index in indices]
            if policy in _OF_PLAIN:
                pixels = torch.stack([self._plain_pixels(sample) for sample in rows])
                if policy == "affine":
                    pixels = warp_batch(pixels, randomness)
            else:
                spec = self._preprocess.spec
                images = (image_pixels(self.store, sample, policy) for sample in rows)
                pixels = torch.stack(
                    [augment_image(image, spec, policy, own) for image, own in zip(images, randomness, strict=True)]
                )
            return self._preprocess.normalise(pixels), _labels(rows)

        return self._ahead(batch, shuffled(len(self.samples), len(self), seed=seed, epoch=epoch, start=start))

    def _ahead(
        self, batch: Callable[[T], tuple[Tensor, Tensor]], parts: Iterable[T]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of each part, in order."""
        if not self.readers:
            yield from map(batch, parts)
            return
        with one_thread_each(), ThreadPoolExecutor(self.readers) as pool:
            yield from map_ahead(pool, lambda part: _pinned(batch(part)), parts, 2 * self.readers)

    def _plain_pixels(self, sample: Sample) -> Tensor:
        """Resized and cropped pixels [3, height, width], kept as long as there is room."""
        kept = self._prepared.get(sample.file)
        if kept is not None:
            return kept
        pixels = self._preprocess.resize_and_crop(image_pixels(self.store, sample)[None])[0]
        if pixels.nbytes <= self._room:
            self._prepared[sample.file] = pixels
            self._room -= pixels.nbytes
        return pixels


def shuffled(samples: int, batches: int, *, seed: int, epoch: int, start: int) -> Sequence[Tensor]:
    """The sample indices of each batch of one epoch, from batch `start` on.

    Batches differ in size by one at most, so that no batch is left with a single image for BatchNorm.
    """
    order = torch.randperm(samples, generator=generator(seed, "order", epoch))
    return torch.tensor_split(order, batches)[start:]


def batch_length(source: Source, number: int) -> int:
    """Samples in batch `number` of a shuffled pass, all shares of it together."""
    short, longer = divmod(len(source.samples), len(source))
    return short + (number < longer)


def image_pixels(store: ImageStore, sample: Sample, policy: Augment = "none") -> Tensor:
    """The uint8 image [H, W, 3] that `policy` starts from: as in its file for the plain view, large enough else."""
    return torch.from_numpy(store.pixels(sample) if policy in _OF_PLAIN else store.reduced(sample))


def view_pixels(image: Tensor, view: View, preprocess: Preprocess, key: str) -> Tensor:
    """Float pixels [3, height, width] of a uint8 image [H, W, 3] in one view; `key` stands for the image."""
    randomness = generator(view.seed, "view", view.number, key)
    if view.policy not in _OF_PLAIN:
        return augment_image(image, preprocess.spec, view.policy, randomness)
    pixels = preprocess.resize_and_crop(image[None])
    return (warp_batch(pixels, [randomness]) if view.policy == "affine" else pixels)[0]


def _pinned(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The batch in memory that a GPU copies from by itself."""
    images, labels = batch
    return (images.pin_memory(), labels.pin_memory()) if torch.cuda.is_available() else batch


def _labels(rows: Sequence[Sample]) -> Tensor:
    return torch.tensor([sample.label for sample in rows])
