"""Every first-party backbone and head does what its spec says."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from zoo.catalogue import Catalogue
from zoo.testing import check_backbone, check_head

CATALOGUE = Catalogue.installed({"torchvision", "heads", "tiny"})
DEEP = ("squeezenet1_1", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "vit_b_16", "swin_t")
"""One of each kind of graph is exported too; the others of a family differ in numbers only."""
LARGE = (
    *("vit_b_16_384", "resnet34", "resnet50", "resnet101", "regnet_y_8gf", "convnext_small"),
    *("efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s"),
)
"""Left to `exhaustive`: a smaller one of the family is checked."""
NAMES = [entry.spec.name for entry in CATALOGUE.backbones if entry.plugin.name == "torchvision"]


def test_tiny() -> None:
    assert [check_backbone(e.spec, deep=True) for e in CATALOGUE.backbones if e.plugin.name == "tiny"] == [[], []]


@pytest.mark.parametrize("name", [head.spec.name for head in CATALOGUE.heads])
def test_heads(name: str) -> None:
    assert check_head(CATALOGUE.find_head(name).spec) == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.exhaustive if n in LARGE else pytest.mark.slow) for n in NAMES]
)
def test_torchvision(name: str) -> None:
    entry, _ = CATALOGUE.find_backbone(f"torchvision/{name}")
    assert check_backbone(entry.spec, deep=name in DEEP) == []


def test_one_at_random() -> None:
    """The others wait for the slow tests."""
    name = random.choice([name for name in NAMES if name not in LARGE])
    assert check_backbone(CATALOGUE.find_backbone(f"torchvision/{name}")[0].spec) == [], name


@pytest.mark.slow
def test_facts_are_those_of_the_installed_torchvision() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zoo_torchvision._generate", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
