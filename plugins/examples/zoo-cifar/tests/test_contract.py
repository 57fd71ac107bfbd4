"""The backbones do what their specs say."""

from __future__ import annotations

import pytest
from zoo.specs import BackboneSpec
from zoo.testing import check_backbone

import zoo_cifar


@pytest.mark.parametrize("spec", zoo_cifar.zoo_backbones(), ids=lambda spec: spec.name)
def test_the_spec_is_the_truth(spec: BackboneSpec) -> None:
    assert check_backbone(spec, deep=True) == []
