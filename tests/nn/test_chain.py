"""Backbones one after the other: names, joints, adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.catalogue import Catalogue
from zoo.catalogue.composites import Joint, parse_chain
from zoo.errors import UsageError
from zoo.nn.adapter_fit import AdapterFit, normalise_anew
from zoo.nn.chain import IMAGE, Adapter, ChainEntry
from zoo.nn.composite import find_backbone
from zoo.nn.preprocess import Preprocess
from zoo.specs import ImageInput, StageSpec


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.installed()


def _entry(catalogue: Catalogue, name: str) -> ChainEntry:
    entry = find_backbone(catalogue, name)
    assert isinstance(entry, ChainEntry)
    return entry


def test_names_say_where_backbones_join() -> None:
    assert parse_chain("a/x -> b/y@v1") == (["a/x", "b/y@v1"], None)
    assert parse_chain("a/x[:7]  -> b/y[5:]") == (["a/x", "b/y"], (Joint(stop=7, start=5),))
    joints = (Joint(stop=2, start=1), Joint(stop=4, start=3))
    assert parse_chain("a/x[0:2] -> b/y[1:4] -> c/z[3:]") == (["a/x", "b/y", "c/z"], joints)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a -> b -> a", "circular chain: a -> b -> a; a would feed itself"),
        ("a[:2] -> a[2:]", "circular chain: a -> a"),
        ("a[:2] -> b", "not a chain"),
        ("a ->", "not a chain"),
        ("a[2] -> b[3:]", "not a chain"),
        ("a[1:2] -> b[3:]", "stages that make no chain"),
        ("a[:2] -> b[3:4]", "stages that make no chain"),
        ("a[:2] -> b[3:] -> c[1:]", "stages that make no chain"),
    ],
)
def test_what_is_no_chain_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_chain(name)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision/resnet18[:9] -> torchvision/mobilenet_v2[3:]", "stage 9 of torchvision/resnet18 in a chain"),
        ("torchvision/resnet18[:2] -> torchvision/resnet34[99:]", "must be 1 to"),
        ("torchvision/resnet18[:2] -> torchvision/resnet34[0:]", "must be 1 to"),
        ("torchvision/resnet18[:1] -> torchvision/resnet34[4:]", "stride 4, torchvision/resnet34[4:] takes maps"),
        ("torchvision/vit_b_16[:3] -> torchvision/resnet34[4:]", "gives tokens of stride 16"),
        ("torchvision/resnet18 -> torchvision/resnet34", "does not say where it joins"),
        ("nobody/resnet18[:2] -> torchvision/resnet34[2:]", "unknown backbone"),
    ],
)
def test_what_does_not_fit_together_is_refused(name: str, words: str, catalogue: Catalogue) -> None:
    with pytest.raises(UsageError) as found:
        find_backbone(catalogue, name)
    assert words in str(found.value)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/squeezenet1_1[:4] -> torchvision/mobilenet_v2[4:]",
        "torchvision/resnet18[:3] -> torchvision/swin_t[3:]",
        "torchvision/swin_t[:2] -> torchvision/resnet18[2:]",
        "torchvision/resnet18[:2] -> torchvision/mobilenet_v2[2:4] -> torchvision/squeezenet1_1[3:]",
    ],
)
def test_a_chain_is_a_backbone_as_its_facts_say(name: str, catalogue: Catalogue) -> None:
    entry = _entry(catalogue, name)
    spec = entry.spec
    assert entry.id == name
    backbone = spec.split(spec.build()).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        activations = backbone.activations(images)
        embedding = backbone.pool(activations[-1])
    assert embedding.shape == (2, spec.num_features)
    assert [a.shape[3 if s.layout == "NHWC" else 1] for s, a in zip(spec.stages, activations, strict=True)] == [
        stage.channels for stage in spec.stages
    ]
    assert sum(p.numel() for p in backbone.parameters()) == spec.params
    assert len(entry.first_stages) == len(entry.links)
    for first, link in zip(entry.first_stages[1:], entry.joints, strict=True):
        stage = backbone.stages[first]
        assert isinstance(stage, nn.Sequential)
        assert isinstance(stage[0], Adapter), link
    assert not any(isinstance(stage, nn.Sequential) and isinstance(stage[0], Adapter) for stage in backbone.stages[:2])


@pytest.mark.parametrize(("source", "target"), [("NCHW", "NCHW"), ("NHWC", "NCHW"), ("NCHW", "NHWC")])
def test_an_adapter_is_fitted_exactly(source: str, target: str) -> None:
    torch.manual_seed(0)
    adapter = Adapter(
        StageSpec(channels=5, stride=8, layout=source),  # type: ignore[arg-type]
        StageSpec(channels=3, stride=8, layout=target),  # type: ignore[arg-type]
    )
    truth = nn.Conv2d(5, 3, 1)
    fit = AdapterFit(adapter)
    with torch.no_grad():
        for number in range(10):
            maps = torch.randn(4, 5, 6, 6)
            wanted = truth(maps)
            given = maps.permute(0, 2, 3, 1) if source == "NHWC" else maps
            fit.add(given, wanted.permute(0, 2, 3, 1) if target == "NHWC" else wanted, held_out=number == 9)
        assert fit.finish() > 0.9999
    torch.testing.assert_close(adapter.linear.weight, truth.weight, atol=1e-3, rtol=1e-3)
    found = adapter(given)
    torch.testing.assert_close(found.permute(0, 3, 1, 2) if target == "NHWC" else found, wanted, atol=1e-2, rtol=1e-2)


def test_regression_is_ridge_regression_on_what_is_seen() -> None:
    """Against the textbook, with noise that no map explains, and maps of other sizes."""
    torch.manual_seed(0)
    stage = StageSpec(channels=2, stride=8)
    adapter = Adapter(stage, stage)
    fit, xs, ys = AdapterFit(adapter), [], []
    for number in range(5):
        x, y = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
        fit.add(x, y, held_out=number == 4)
        xs.append(x.movedim(1, 3).flatten(0, 2).double())
        ys.append(y.movedim(1, 3).flatten(0, 2).double())
    explained = fit.finish()
    assert explained < 0.1
    x, y = torch.cat(xs), torch.cat(ys)
    centred = x - x.mean(0)
    errors = []
    for exponent in range(-6, 1):
        covariance = centred.T @ centred / len(x)
        l2 = 10.0**exponent * covariance.diagonal().mean()
        weight = torch.linalg.solve(covariance + l2 * torch.eye(2), centred.T @ (y - y.mean(0)) / len(x))
        errors.append(float((adapter.linear.weight.detach().double()[:, :, 0, 0].T - weight).abs().max()))
    assert min(errors) < 1e-6
    fit.add(torch.randn(3, 2, 5, 5), torch.randn(3, 2, 4, 4), held_out=False)


def test_images_are_normalised_anew() -> None:
    first = ImageInput(height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    second = ImageInput(height=8, width=8)
    adapter = Adapter(IMAGE, IMAGE)
    normalise_anew(adapter, first, second)
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(adapter(Preprocess(first)(images)), Preprocess(second)(images), atol=1e-5, rtol=1e-5)
