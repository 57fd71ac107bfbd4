"""The denoiser that ships, and how it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from zoo_tiny._denoiser import Denoiser
from zoo_tiny._leaves import draw_leaves
from zoo_tiny._train_denoise import measure, train

from zoo.catalogue.weights import fetch_weights
from zoo.finetune.resolve import Environment
from zoo.nn.weights import load_into
from zoo.progress import Silent


@pytest.fixture(scope="module")
def network(environment: Environment) -> Denoiser:
    spec = environment.catalogue.find_backbone("tiny/denoise")[0].spec
    network = Denoiser()
    load_into(network, fetch_weights(spec.weights[0], environment.cache, progress=Silent()), spec.name)
    return network.eval()


def test_noise_is_taken_off_and_little_else(network: Denoiser) -> None:
    found = measure(network, draw_leaves(4, seed=1_000), (0, 15, 25, 50), seed=0)
    gains = {strength: after - before for strength, (before, after) in found.items()}
    assert gains[15] > 3
    assert gains[25] > 5
    assert gains[50] > 7
    assert found[0][1] > 36


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (1, 1)])
def test_images_of_any_size_are_taken(height: int, width: int, network: Denoiser) -> None:
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        found = network(images)
    assert found.shape == images.shape
    assert (found - images).abs().mean() < 0.5


def test_the_same_seed_gives_the_same_weights() -> None:
    pictures = draw_leaves(1, seed=0)
    assert torch.equal(pictures, draw_leaves(1, seed=0))
    first, again, other = (train(pictures, steps=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_its_script_writes_what_the_plugin_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Environment
) -> None:
    from zoo_tiny import _train_denoise

    monkeypatch.setattr(_train_denoise, "_PICTURES", 1)
    monkeypatch.setattr(_train_denoise, "_HELD_OUT", 1)
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path / "own.safetensors"), "--steps", "1"])
    _train_denoise.main()
    load_into(Denoiser(), tmp_path / "own.safetensors", "denoise")
