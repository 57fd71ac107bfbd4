"""The contract of pretrained weights: another normalisation than the one they were trained with is noticed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import real_weights
from torch import nn

from zoo.catalogue import Catalogue
from zoo.nn.backbone import Backbone
from zoo.specs import BackboneSpec, ImageInput, StageSpec, WeightsSpec
from zoo.testing import check_weights
from zoo.testing.weights import natural_images

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LIES = {
    "values in [0, 1]": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "std"),
    "values in [-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "std"),
    "not centred": ((0.0, 0.0, 0.0), IMAGENET[1], "mean"),
    "not scaled": (IMAGENET[0], (1.0, 1.0, 1.0), "std"),
}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 10)


def _weights(pretrained_on: str = "ImageNet") -> WeightsSpec:
    return WeightsSpec(
        tag="mine",
        url="https://example.org/mine.pth",
        sha256=None,
        pretrained_on=pretrained_on,
        license="MIT",
        input=ImageInput(height=64, width=64, mean=IMAGENET[0], std=IMAGENET[1]),
        num_classes=10,
    )


def _spec() -> BackboneSpec:
    def split(net: nn.Module) -> Backbone:
        assert isinstance(net, _Net)
        return Backbone(stages=[net.body], pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    return BackboneSpec(
        name="net",
        family="net",
        num_features=16,
        stages=(StageSpec(channels=16, stride=1),),
        params=1,
        macs=1,
        input=_weights().input,
        weights=(_weights(),),
        build=_Net,
        split=split,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights whose BatchNorm has seen images of the declared normalisation."""
    torch.manual_seed(1)
    net = _Net()
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    for _ in range(20):
        net.body((natural_images(4, 64, 64) - mean) / std)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def _told(weights: WeightsSpec, lie: str) -> WeightsSpec:
    return replace(weights, input=replace(weights.input, mean=LIES[lie][0], std=LIES[lie][1]))


def test_what_is_true_passes(file: Path) -> None:
    assert check_weights(_spec(), _weights(), file) == []


@pytest.mark.parametrize("lie", LIES)
def test_another_normalisation_is_caught(lie: str, file: Path) -> None:
    found = check_weights(_spec(), _told(_weights(), lie), file)
    assert [finding.what for finding in found] == [LIES[lie][2]], found
    assert f"the true {LIES[lie][2]} is about (0." in found[0].message


def test_other_images_than_photographs_are_not_judged(file: Path) -> None:
    weights = _told(_weights(pretrained_on="letters drawn by a script"), "values in [0, 1]")
    assert check_weights(_spec(), weights, file) == []


def test_weights_of_another_network_are_caught(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pth")
    (finding,) = check_weights(_spec(), _weights(), tmp_path / "other.pth")
    assert finding.message.startswith("weights 'mine': weights of another architecture")


@pytest.mark.parametrize("lie", [None, *LIES])
def test_real_imagenet_weights(lie: str | None, shared: Path) -> None:
    spec = Catalogue.installed().find_backbone("torchvision/mobilenet_v2")[0].spec
    weights = spec.weights[0] if lie is None else _told(spec.weights[0], lie)
    found = check_weights(spec, weights, Path(real_weights(shared, "mobilenet_v2")))
    assert [finding.what for finding in found] == ([] if lie is None else [LIES[lie][2]]), found


def test_the_command_checks_what_ships(zoo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = zoo("plugins", "check", "tiny")
    assert done.stdout == "tiny: 2 backbones, 0 heads and 2 pretrained sets at hand do what they say\n"
