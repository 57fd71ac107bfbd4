"""What a request comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet, Sample
from zoo.errors import UsageError
from zoo.finetune.plan import Plan, make_plan
from zoo.finetune.request import FinetuneRequest

CATALOGUE = Catalogue.installed({"tiny", "torchvision"})


def _plan(backbone: str = "tiny/glyphnet", images: int = 100, **options: Any) -> Plan:
    samples = tuple(Sample(file=f"{n}.png", label=n % 2, split="train", sha256="0" * 64) for n in range(images))
    data = DataSet(source="x", root=Path("x"), classes=("a", "b"), samples=samples)
    spec = CATALOGUE.find_backbone(backbone)[0].spec
    request = FinetuneRequest(data="x", backbone=backbone, **{"strategy": "lp-ft", **options})
    return make_plan(request, spec, spec.input, data)


@pytest.mark.parametrize("mirror", [None, False, True])
def test_whether_images_may_be_mirrored_does_not_decide_how_they_are_cropped(mirror: bool | None) -> None:
    assert _plan("torchvision/mobilenet_v2", mirror=mirror).augment == "crop"
    assert _plan("tiny/glyphnet", mirror=mirror).augment == "affine"
    assert _plan("torchvision/mobilenet_v2", augment="gentle").augment == "gentle"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"images": 4_999}, True),
        ({"images": 5_000}, False),
        ({"images": 5_000, "batch_size": 31}, True),
        ({"images": 100, "strategy": "scratch"}, False),
    ],
)
def test_poor_statistics_do_not_replace_pretrained_ones(options: dict[str, Any], kept: bool) -> None:
    assert _plan(**options).keep_statistics is kept


@pytest.mark.parametrize(("images", "epochs"), [(100, 100), (1_200, 11), (10_000, 5), (100_000, 5)])
def test_every_image_is_seen_five_times_at_least(images: int, epochs: int) -> None:
    assert _plan(images=images).epochs == epochs


@pytest.mark.parametrize(
    ("options", "views"),
    [
        ({"images": 250}, 5),
        ({"images": 251}, 4),
        ({"images": 1_001}, 1),
        ({"images": 1_001, "views": 3}, 3),
        ({"images": 100, "augment": "none"}, 1),
        ({"images": 100, "backbone": "tiny/glyphnet"}, 1),
        ({"images": 100, "backbone": "tiny/glyphnet", "augment": "crop"}, 5),
        ({"images": 100, "strategy": "partial", "views": 3}, 5),  # three views of the activations
        ({"images": 100, "strategy": "full"}, 1),
    ],
)
def test_a_probe_sees_few_images_in_several_views(options: dict[str, Any], views: int) -> None:
    assert _plan(**{"backbone": "torchvision/mobilenet_v2", "strategy": "probe", **options}).probe_views == views


def test_a_policy_without_a_view_to_apply_it_to_is_refused() -> None:
    with pytest.raises(UsageError, match="--augment gentle: a probe sees these 1001 images as they are"):
        _plan("torchvision/mobilenet_v2", images=1_001, strategy="probe", augment="gentle")


def test_a_pool_that_learns_is_one_of_the_parts() -> None:
    plan = _plan("torchvision/convnext_tiny", strategy="partial", freeze_stages=2)
    parts = plan.groups([10] * len(plan.stages), 7, 3)
    assert [(part.name, part.params, part.frozen) for part in parts[-2:]] == [("pool", 7, False), ("head", 3, False)]
    assert [part.name for part in plan.groups([10] * len(plan.stages), 0, 3)][-2:] == ["stage 4", "head"]


def test_the_twin_from_scratch_is_trained_to_its_end() -> None:
    for patience, expected in ((None, 0), (0, 0), (3, 3)):
        request = FinetuneRequest(data="x", backbone="y", strategy="lp-ft", patience=patience)
        assert request.scratch_twin().patience == expected
