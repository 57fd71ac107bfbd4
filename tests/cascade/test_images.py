"""A chain whose first backbone gives images: what follows takes them as it takes any others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from zoo_tiny._denoiser import Denoiser

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.splits import open_dataset
from zoo.errors import UsageError
from zoo.evaluate import evaluate
from zoo.export.run import export
from zoo.finetune.joining import join_backbones
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, Resolved, resolve
from zoo.finetune.run import finetune
from zoo.nn.build import build_backbone
from zoo.nn.composite import find_backbone
from zoo.nn.preprocess import Preprocess
from zoo.progress import Silent

Zoo = Callable[..., subprocess.CompletedProcess[str]]

FIRST, SECOND = "tiny/denoise", "timm/test_resnet"


@pytest.fixture(scope="module")
def untrained(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the second backbone."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    state = environment.catalogue.find_backbone(SECOND)[0].spec.build().state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a denoiser that finds no noise anywhere."""
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    save_file({name: torch.zeros_like(value) for name, value in Denoiser().state_dict().items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def twins(environment: Environment) -> Environment:
    """Both backbones once more, in a plugin of their own: the denoiser with images normalised in another way."""
    denoiser, second = (environment.catalogue.find_backbone(name)[0].spec for name in (FIRST, SECOND))
    other = replace(denoiser, input=replace(denoiser.input, mean=(0.3, 0.4, 0.6), std=(0.2, 0.3, 0.4)))
    twin = replace(environment.catalogue.find_plugin("timm"), name="twin", backbones=[other, second])
    return replace(environment, catalogue=Catalogue([*environment.catalogue.plugins, twin]))


@pytest.fixture(scope="module")
def chained(untrained: str, dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe on the images that the denoiser gives."""
    out = tmp_path_factory.mktemp("chained") / "run"
    finetune(_request(dataset, f"{FIRST} -> {SECOND}", f"leaves_v1 -> {untrained}"), out, environment, Silent())
    return out


def _request(dataset: Path, backbone: str, weights: str) -> FinetuneRequest:
    return FinetuneRequest(
        data=str(dataset), backbone=backbone, weights=weights, strategy="probe", device="cpu", threads=1
    )


def _join(request: FinetuneRequest, environment: Environment) -> Resolved:
    parts = resolve(request, environment, Silent())
    data = open_dataset(request.data, cache=environment.cache, progress=Silent())
    return join_backbones(request, parts, data, environment, Silent())[1]


def _embeddings(found: Resolved) -> torch.Tensor:
    """Of the same four images, whatever the backbone wants of them."""
    images = torch.randint(0, 256, (4, 200, 180, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    backbone = build_backbone(found.backbone.id, found.backbone.spec, found.weights).eval()
    with torch.no_grad():
        return backbone(Preprocess(found.input)(images))


@pytest.mark.parametrize("denoisers", [(FIRST,), (FIRST, "twin/denoise"), ("twin/denoise", FIRST)])
def test_where_nothing_is_done_to_images_the_next_backbone_is_what_it_is_alone(
    denoisers: tuple[str, ...], identity: str, untrained: str, dataset: Path, twins: Environment
) -> None:
    names, weights = [*denoisers, SECOND], [identity] * len(denoisers) + [untrained]
    chain = _join(_request(dataset, " -> ".join(names), " -> ".join(weights)), twins)
    (alone,) = resolve(_request(dataset, SECOND, untrained), twins, Silent())
    assert replace(chain.input, mean=alone.input.mean, std=alone.input.std) == alone.input
    assert chain.input.mean == twins.catalogue.find_backbone(denoisers[0])[0].spec.input.mean
    torch.testing.assert_close(_embeddings(chain), _embeddings(alone), atol=1e-4, rtol=1e-4)


def test_what_comes_third_is_fitted_to_the_images_without_noise(
    untrained: str, dataset: Path, twins: Environment
) -> None:
    """Two halves of one network behind the denoiser make the whole: the second adapter has nothing to change."""
    halves = f"{FIRST}[:1] -> {SECOND}[0:2] -> twin/test_resnet[2:]"
    three = _join(_request(dataset, halves, f"leaves_v1 -> {untrained} -> {untrained}"), twins)
    two = _join(_request(dataset, f"{FIRST} -> {SECOND}", f"leaves_v1 -> {untrained}"), twins)
    assert three.input == two.input
    found, expected = _embeddings(three), _embeddings(two)
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()


def test_a_run_of_it(chained: Path, environment: Environment, tmp_path: Path, dataset: Path, zoo: Zoo) -> None:
    run = RunFolder.open_complete(chained)
    record = run.read_model()
    assert record.backbone == f"{FIRST}[:1] -> {SECOND}[0:]"
    own = environment.catalogue.find_backbone(SECOND)[0].spec.input
    assert (record.input.height, record.input.width) == (own.height, own.width)
    # Three means of colour are no features to compare with.
    tried = [row["backbone"] for row in run.read_decisions()["where backbones join"]]
    assert tried == [SECOND, record.backbone]
    path = tmp_path / "chain.onnx"
    assert export(chained, path, catalogue=environment.catalogue, progress=Silent())["parity"]["max_abs"] < 1e-4
    common = {"split": "test", "catalogue": environment.catalogue, "cache": environment.cache, "device": "cpu"}
    found = [evaluate(each, str(dataset), progress=Silent(), **common)["accuracy"] for each in (chained, path)]  # type: ignore[arg-type]
    assert found == [run.read("result")["test_accuracy"]] * 2
    assert zoo("report", chained, "--out", tmp_path / "chain.html").returncode == 0
    assert "or images, normalised anew" in (tmp_path / "chain.html").read_text()


def test_the_size_is_that_of_the_next_backbone(vit_weights: Path, environment: Environment, dataset: Path) -> None:
    catalogue = environment.catalogue
    entry = find_backbone(catalogue, f"{FIRST}[:1] -> timm/test_vit[0:]")
    spec = entry.spec
    assert (spec.input.height, spec.input.mean) == (160, (0.5, 0.5, 0.5))
    parts = [catalogue.find_backbone(name)[0].spec for name in (FIRST, "timm/test_vit")]
    work = parts[0].macs * 160**2 / 224**2 + 9 * 160**2 + parts[1].macs
    np.testing.assert_allclose(spec.macs, work, rtol=0.01)
    request = _request(dataset, f"{FIRST} -> timm/test_vit", f"leaves_v1 -> {vit_weights}")
    assert _join(request, environment).input.height == 160
    with pytest.raises(UsageError, match="timm/test_vit takes 160 x 160 only"):
        _join(replace(request, input_size=64), environment)


def test_only_what_gives_images_hands_them_on(environment: Environment) -> None:
    with pytest.raises(UsageError, match=r"stage 0 of tiny/glyphnet in a chain: must be 1 to 3"):
        find_backbone(environment.catalogue, f"{SECOND}[:1] -> tiny/glyphnet[0:]")
