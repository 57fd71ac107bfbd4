"""The contract of backbones: what a spec declares is true, and what comes out of `split` behaves as stages must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from zoo.specs import BackboneSpec
from zoo.testing.behaviour import BEHAVIOUR, COMPARISONS, determinism, exports
from zoo.testing.facts import FACTS, shapes, unowned
from zoo.testing.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.nn.backbone import Backbone

Check = Callable[[BackboneSpec, "Backbone", "Tensor"], Iterator[Finding]]


def check_backbone(spec: BackboneSpec, *, deep: bool = False) -> list[Finding]:
    """Everything that is wrong with a backbone; an empty list when all is well.

    Uses random weights and random images of the spec's own input size. `deep` adds the export to ONNX with parity at
    batch sizes 1, 2 and 3. Nothing is raised for the plugin's sake: what its code raises is a finding.
    """
    import torch

    from zoo.nn.backbone import Backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            native = spec.build()
            state = [*native.parameters(), *native.buffers()]
            backbone = spec.split(native)
        except Exception as error:
            return [Finding("build", f"build or split raises {type(error).__name__}: {error}")]
        if not isinstance(backbone, Backbone):
            return [Finding("split", f"split gives {type(backbone).__name__}; must be zoo.nn.backbone.Backbone")]
        if len(backbone.stages) != len(spec.stages):
            return [Finding("stages", f"stages: {len(spec.stages)} declared, split gives {len(backbone.stages)}")]
        images = torch.randn(3, spec.input.channels, spec.input.height, spec.input.width)
        # As training lays them out: a module that needs `reshape` and says `view` would fail there.
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            _settle_statistics(backbone, images)
        except Exception as error:
            return [Finding("forward", f"split: a training pass raises {type(error).__name__}: {error}")]
        findings = _run(shapes, spec, backbone, images)
        if findings:
            return findings  # the other checks would only stumble over wrong shapes
        findings += unowned(backbone, state)
        for check in FACTS:
            findings += _run(check, spec, backbone, images)
        backbone.source_head = None  # as in training; no more is asked of it
        for check in BEHAVIOUR:
            findings += _run(check, spec, backbone, images)
        unsteady = _run(determinism, spec, backbone, images)
        if unsteady:
            return findings + unsteady
        for check in (*COMPARISONS, *([exports] if deep else [])):
            findings += _run(check, spec, backbone, images)
        return findings


def _run(check: Check, spec: BackboneSpec, backbone: Backbone, images: Tensor) -> list[Finding]:
    """What one check finds; that it raises is a finding, too."""
    backbone.eval().requires_grad_(True)
    try:
        return list(check(spec, backbone, images))
    except Exception as error:
        name = check.__name__
        return [Finding(name, f"{name.replace('_', ' ')}: raises {type(error).__name__}: {error}")]


def _settle_statistics(backbone: Backbone, images: Tensor) -> None:
    """BatchNorm statistics as training leaves them: in deep random networks signals otherwise die or explode."""
    import torch

    norms: list[Any] = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches: of this one
    with torch.no_grad():
        backbone.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
