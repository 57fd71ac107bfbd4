"""Decoded images are kept as long as they fit, large ones scaled down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.progress import Silent


def _photographs(folder: Path) -> DataSet:
    random = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for _ in range(3):
            pixels = random.integers(0, 256, (300 + number, 400, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{_}.png")
    return open_dataset(str(folder / "photos"), cache=folder, progress=Silent())


def test_large_images_are_kept_small_and_read_exactly(tmp_path: Path) -> None:
    data = _photographs(tmp_path)
    sample = data.samples[0]
    roomy, tight = ImageStore(data, enough=70), ImageStore(data, enough=70, budget=0)
    exact = ImageStore(data).pixels(sample)
    for store in (roomy, tight):
        for _ in range(2):
            assert np.array_equal(store.pixels(sample), exact)
            assert store.reduced(sample).shape == (75, 100, 3)  # a fourth: a fifth of 300 would be too few
            assert np.array_equal(store.reduced(sample), roomy.reduced(sample))
    assert (roomy._kept[sample.file].nbytes, tight._kept) == (75 * 100 * 3, {})


def test_images_of_nearly_the_size_needed_stay_as_they_are(tmp_path: Path) -> None:
    data = _photographs(tmp_path)
    sample = data.samples[0]
    for store in (ImageStore(data, enough=151), ImageStore(data)):
        assert store.reduced(sample) is store.pixels(sample)
