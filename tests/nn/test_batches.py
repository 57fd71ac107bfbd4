"""Batches are the same whoever prepares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.nn.augment import Augment
from zoo.nn.batches import Batches
from zoo.progress import Silent
from zoo.specs import ImageInput

SIZE = ImageInput(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.mark.parametrize("policy", ["none", "crop", "trivial", "affine"])
def test_readers_prepare_the_batches_that_one_thread_does(policy: Augment, dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    alone, ahead = (
        Batches(data.samples, store=ImageStore(data), input_spec=SIZE, batch_size=7, readers=readers)
        for readers in (0, 3)
    )

    def passes(source: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        yield from source.plain()
        yield from source.augmented(policy, seed=1, epoch=2, start=1)

    for expected, found in zip(passes(alone), passes(ahead), strict=True):
        assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_a_pass_that_is_broken_off_leaves_nothing_behind(dataset: Path, tmp_path: Path) -> None:
    data = open_dataset(str(dataset), cache=tmp_path, progress=Silent())
    threads = torch.get_num_threads()
    batches = Batches(data.samples, store=ImageStore(data), input_spec=SIZE, batch_size=4, readers=2)
    plain = batches.plain()
    next(plain)
    assert torch.get_num_threads() == 1
    plain.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == threads
