"""Images of different sizes, prepared one by one, go through the network together and get the answers of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import draw

from zoo.runtime.halves import open_halves
from zoo.runtime.model import OnnxModel
from zoo.serve.model import ServedOnnx

SIZES = [(40, 48), (28, 28), (90, 33), (28, 28)]


def test_the_halves_answer_as_the_whole(model: Path) -> None:
    whole = OnnxModel(model, device="cpu", threads=1)
    names = [output.name for output in whole.outputs]
    images = [draw("dots", seed, size) for seed, size in enumerate(SIZES)]
    halves = open_halves(whole)
    assert halves is not None
    for together in ([image[None] for image in images], [np.stack([images[1], images[3]]), images[0][None]]):
        found = halves.run(together, names)
        alone = [whole.run({"image": image[None]}, names) for batch in together for image in batch]
        for number, answers in enumerate(found):
            assert np.abs(answers - np.concatenate([each[number] for each in alone])).max() < 1e-6


def test_a_plain_file_has_no_halves(tensor_model: Path) -> None:
    assert open_halves(OnnxModel(tensor_model, device="cpu")) is None


def test_a_server_takes_different_sizes_in_one_call(model: Path) -> None:
    served = ServedOnnx(OnnxModel(model, device="cpu", threads=1), name="m", max_batch=64)
    if served.pace.max_batch == 1:
        pytest.skip("batches of the small network were measured not to help here")
    assert served.pace.any_size == "image"
    images = [draw("dots", seed, size)[None] for seed, size in enumerate(SIZES)]
    [found] = served.infer([{"image": image} for image in images], ["probabilities"])
    alone = [served.infer([{"image": image}], ["probabilities"])[0] for image in images]
    assert np.abs(found - np.concatenate(alone)).max() < 1e-6
