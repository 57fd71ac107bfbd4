"""Names find their backbones, and registry.json says what is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo.catalogue import Catalogue
from zoo.catalogue.registry import build_registry, keep_measurements, packaged_registry, validate
from zoo.errors import PluginError, UsageError, ZooError


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.installed()


def test_every_backbone_of_the_first_party_plugins(catalogue: Catalogue) -> None:
    names = {entry.id for entry in catalogue.backbones if entry.plugin.distribution == "zoo"}
    expected = (
        "resnet18 resnet34 resnet50 resnet101 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large squeezenet1_0 "
        "squeezenet1_1 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_v2_s convnext_tiny "
        "convnext_small regnet_y_400mf regnet_y_8gf densenet121 vgg16_bn vit_b_16 swin_t"
    )
    assert {f"torchvision/{name}" for name in expected.split()} <= names
    assert "tiny/glyphnet" in names


def test_both_weight_sets_where_both_exist(catalogue: Catalogue) -> None:
    entry, _ = catalogue.find_backbone("torchvision/resnet50")
    # V1 first, and so the default: its features transfer better.
    assert [weights.tag for weights in entry.spec.weights] == ["imagenet1k_v1", "imagenet1k_v2"]
    first, second = entry.spec.weights
    assert (first.input.crop_fraction, second.input.crop_fraction) == (224 / 256, 224 / 232)
    assert all(len(weights.sha256) >= 8 and weights.license for weights in entry.spec.weights)


def test_names_and_near_matches(catalogue: Catalogue) -> None:
    assert catalogue.find_backbone("resnet18")[0].id == "torchvision/resnet18"
    _, weights = catalogue.find_backbone("torchvision/resnet50@imagenet1k_v1")
    assert weights is not None
    assert weights.tag == "imagenet1k_v1"
    for wrong, hint in (
        ("torchvision/resnet19", "resnet18"),
        ("resnet19", "resnet18"),
        ("torchvison/resnet18", "torchvision"),
    ):
        with pytest.raises(UsageError, match=f"did you mean .*{hint}"):
            catalogue.find_backbone(wrong)


def test_a_name_two_plugins_have_must_be_told_apart(make_plugin: Callable[..., Path]) -> None:
    source = (
        "from zoo.hookspecs import hookimpl\nimport zoo_tiny\n@hookimpl\n"
        "def zoo_backbones(): return zoo_tiny.zoo_backbones()\n"
    )
    make_plugin("twin", source)
    with pytest.raises(UsageError, match=r"twin/glyphnet"):
        Catalogue.installed().find_backbone("glyphnet")
    assert Catalogue.installed().find_backbone("twin/glyphnet")[0].id == "twin/glyphnet"


def test_families_too_large_to_list_are_resolved(make_plugin: Callable[..., Path]) -> None:
    source = (
        "from dataclasses import replace\nfrom zoo.hookspecs import hookimpl\nimport zoo_tiny\n@hookimpl\n"
        "def zoo_resolve_backbone(plugin, name):\n"
        "    if plugin == 'hub' and name.startswith('g'):\n"
        "        return replace(list(zoo_tiny.zoo_backbones())[0], name=name)\n"
    )
    make_plugin("hub", source)
    catalogue = Catalogue.installed()
    assert catalogue.find_backbone("hub/gigantic")[0].spec.name == "gigantic"
    with pytest.raises(UsageError, match="hub/small"):
        catalogue.find_backbone("hub/small")


@pytest.mark.parametrize("answer", ["1 / 0", "'a name'"])
def test_a_plugin_that_cannot_resolve_is_named(answer: str, make_plugin: Callable[..., Path]) -> None:
    source = f"from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_resolve_backbone(plugin, name): return {answer}"
    make_plugin("lost", source)
    with pytest.raises(PluginError, match=r"plugin 'lost' \(zoo_lost 1\.0\) failed to resolve 'x'"):
        Catalogue.installed().find_backbone("lost/x")


def test_registry_is_what_is_installed(catalogue: Catalogue) -> None:
    declared = keep_measurements(build_registry(catalogue.plugins, "zoo"), packaged_registry())
    assert packaged_registry() == declared, "write it again with `zoo registry write`"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: value["backbones"][0].pop("params"), "params"),
        (lambda value: value["backbones"][0].update(extra=1), "extra"),
        (lambda value: value.update(schema="one"), r"\$\.schema"),
    ],
)
def test_schema_refuses(spoil: Callable[[Any], Any], message: str, catalogue: Catalogue) -> None:
    value = copy.deepcopy(build_registry(catalogue.plugins, "zoo"))
    spoil(value)
    with pytest.raises(ZooError, match=message):
        validate(value, "registry.json")
