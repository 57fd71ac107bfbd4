"""Writes `facts.json` from torchvision itself: what its weights say, what its modules measure.

python -m zoo_torchvision._generate [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo_torchvision import _build

NAMES = (
    *("resnet18", "resnet34", "resnet50", "resnet101"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "squeezenet1_0", "squeezenet1_1"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s"),
    *("convnext_tiny", "convnext_small", "regnet_y_400mf", "regnet_y_8gf", "densenet121", "vgg16_bn"),
    *("vit_b_16", "vit_b_16_384", "swin_t"),
)
FACTS = Path(__file__).with_name("facts.json")

_LICENSE = "BSD-3-Clause"
# Their recipe's page, not their metadata, says so: trained on Instagram images under another licence.
_SWAG_LICENSE = "CC-BY-NC-4.0"


def facts(names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    """One entry per backbone, in the shape of `facts.json`."""
    return [_backbone(name) for name in names]


def _backbone(name: str) -> dict[str, Any]:
    weights = [_weights(entry) for entry in _build.published_weights(name)]
    # V1 first: its features transfer better frozen than those of the regularised V2 recipes (Kornblith et al. 2019).
    weights.sort(key=lambda entry: entry["tag"] != "imagenet1k_v1")
    return {
        "name": name,
        "family": re.sub(r"[\d_].*", "", name),
        **_measure(name, weights[0]["input"]),
        "weights": weights,
    }


def _weights(entry: Any) -> dict[str, Any]:
    transform = entry.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    scores = entry.meta["_metrics"]["ImageNet-1K"]
    fixed = "vit_" in type(entry).__name__.lower()
    return {
        "tag": entry.name.lower(),
        "url": entry.url,
        "sha256": re.search(r"-([0-9a-f]{8})\.pth$", entry.url)[1],  # type: ignore[index]
        "pretrained_on": "Instagram, then ImageNet-1k" if "SWAG" in entry.name else "ImageNet-1k",
        "license": _SWAG_LICENSE if "SWAG" in entry.name else _LICENSE,
        "num_classes": len(entry.meta["categories"]),
        "metrics": {metric: round(score / 100, 5) for metric, score in scores.items()},
        "input": {
            "height": crop,
            "width": crop,
            "mean": transform.mean,
            "std": transform.std,
            "crop_fraction": crop / resize,
            "interpolation": transform.interpolation.value,
            **({"fixed_size": True} if fixed else {}),
        },
    }


def _measure(name: str, input_facts: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    backbone = _build.split(name, _build.build(name).eval())
    backbone.source_head = None
    images = torch.randn(1, 3, input_facts["height"], input_facts["width"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        taps = backbone.activations(images)
        embedding = backbone.pool(taps[-1])
    return {
        "num_features": embedding.shape[1],
        "params": sum(parameter.numel() for parameter in backbone.parameters()),
        "macs": counter.get_total_flops() // 2,
        "stages": [_stage(name, tap, images.shape[-1]) for tap in taps],
    }


def _stage(name: str, tap: torch.Tensor, size: int) -> dict[str, Any]:
    if tap.ndim == 3:
        patches = round((tap.shape[1] - 1) ** 0.5)  # less the class token
        return {"channels": tap.shape[2], "stride": size // patches, "layout": "NTC"}
    if name.startswith("swin"):
        return {"channels": tap.shape[3], "stride": round(size / tap.shape[1]), "layout": "NHWC"}
    return {"channels": tap.shape[1], "stride": 2 ** round(torch.tensor(size / tap.shape[2]).log2().item())}


def main() -> None:
    """Writes the file, or with --check says whether it is up to date."""
    text = json.dumps(facts(), indent=1) + "\n"
    if "--check" not in sys.argv[1:]:
        FACTS.write_text(text, encoding="utf-8")
    elif FACTS.read_text(encoding="utf-8") != text:
        sys.exit("facts.json is out of date: run python -m zoo_torchvision._generate")


if __name__ == "__main__":
    main()
