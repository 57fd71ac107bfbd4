"""The contract of plugins: does a backbone or head do what its spec says?

from zoo.testing import check_backbone
assert check_backbone(spec) == []
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.specs import BackboneSpec, HeadSpec, StageSpec

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.nn.backbone import Backbone

_TOLERANCE = 1e-4
"""Largest relative difference between two ways to compute the same thing in float32."""
_EXPORT_BATCHES = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a spec lies: `what` names the check, `message` the line of the spec and the true value."""

    what: str
    message: str


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
            backbone = spec.split(spec.build())
        except Exception as error:
            return [Finding("build", f"build or split raises {type(error).__name__}: {error}")]
        if not isinstance(backbone, Backbone):
            return [Finding("split", f"split gives {type(backbone).__name__}; must be zoo.nn.backbone.Backbone")]
        if len(backbone.stages) != len(spec.stages):
            return [Finding("stages", f"stages: {len(spec.stages)} declared, split gives {len(backbone.stages)}")]
        backbone.source_head = None
        images = torch.randn(3, spec.input.channels, spec.input.height, spec.input.width)
        # As training lays them out: a module that needs `reshape` and says `view` would fail there.
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            _settle_statistics(backbone, images)
        except Exception as error:
            return [Finding("forward", f"split: a training pass raises {type(error).__name__}: {error}")]
        checks: list[Callable[[BackboneSpec, Backbone, Tensor], Iterator[Finding]]] = [
            *(_shapes, _size, _determinism, _batch, _purity, _round_trip, _gradients, _freezing),
            *([_export] if deep else []),
        ]
        findings: list[Finding] = []
        for check in checks:
            backbone.eval().requires_grad_(True)
            try:
                findings += check(spec, backbone, images)
            except Exception as error:
                name = check.__name__.lstrip("_")
                findings.append(Finding(name, f"{name}: raises {type(error).__name__}: {error}"))
            if check is _shapes and findings:
                break  # the other checks would only stumble over wrong shapes
        return findings


def check_head(spec: HeadSpec) -> list[Finding]:
    """Everything that is wrong with a head; an empty list when all is well."""
    import torch

    features, classes, count = 24, 5, 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            head = spec.build(features, classes, spec.options).eval()
            embeddings = torch.randn(count, features)
            logits = head(embeddings)
            if tuple(logits.shape) != (count, classes):
                return [Finding("shape", f"build: gives logits {tuple(logits.shape)}, must be {(count, classes)}")]
            if not torch.equal(logits, head(embeddings)):
                return [Finding("determinism", "build: two passes in eval mode differ")]
            loss = spec.loss(logits, torch.arange(count))
            if loss.ndim != 0:
                return [Finding("loss", f"loss: gives shape {tuple(loss.shape)}, must be one number")]
            loss.backward()
        except Exception as error:
            return [Finding("raises", f"build or loss raises {type(error).__name__}: {error}")]
        dead = [name for name, parameter in head.named_parameters() if parameter.grad is None]
        return [Finding("gradients", f"build: no gradient reaches {dead[0]}")] if dead else []


def _settle_statistics(backbone: Backbone, images: Tensor) -> None:
    """BatchNorm statistics as training leaves them: in deep random networks signals otherwise die or explode."""
    import torch

    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches: of this one
    with torch.no_grad():
        backbone.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _shapes(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    import torch

    with torch.no_grad():
        taps = backbone.activations(images)
        embedding = backbone.pool(taps[-1])
    for number, (stage, tap) in enumerate(zip(spec.stages, taps, strict=True)):
        yield from _stage(spec, number, stage, tap)
    if tuple(embedding.shape) != (len(images), spec.num_features):
        yield Finding(
            "num_features", f"num_features: {spec.num_features} declared, pool gives {tuple(embedding.shape)}"
        )


def _stage(spec: BackboneSpec, number: int, stage: StageSpec, tap: Any) -> Iterator[Finding]:
    rank = 3 if stage.layout == "NTC" else 4
    if getattr(tap, "ndim", None) != rank:
        yield Finding("layout", f"stages[{number}].layout: {stage.layout} declared, the activation is not of that rank")
        return
    channels = tap.shape[1] if stage.layout == "NCHW" else tap.shape[-1]
    if channels != stage.channels:
        yield Finding("channels", f"stages[{number}].channels: {stage.channels} declared, the true value is {channels}")
    if stage.layout == "NTC":
        return
    height = tap.shape[2] if stage.layout == "NCHW" else tap.shape[1]
    # Unpadded convolutions lose a pixel or two, so the stride is judged by the nearest power of two.
    if not 0.75 < spec.input.height / height / stage.stride < 1.34:
        true = spec.input.height / height
        yield Finding("stride", f"stages[{number}].stride: {stage.stride} declared, the true value is about {true:.1f}")


def _size(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    params = sum(parameter.numel() for parameter in backbone.parameters())
    if params != spec.params:
        yield Finding("params", f"params: {spec.params:,} declared, the true value is {params:,}")
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(images[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    macs = counter.get_total_flops() // 2
    if abs(macs - spec.macs) > 0.01 * macs:
        yield Finding("macs", f"macs: {spec.macs:,} declared, the true value is {macs:,}")


def _determinism(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    import torch

    with torch.no_grad():
        if not torch.equal(backbone(images), backbone(images)):
            yield Finding("determinism", "split: two passes in eval mode differ (dropout or noise that ignores eval?)")


def _batch(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    import torch

    with torch.no_grad():
        together = backbone(images[:2])
        alone = torch.cat([backbone(images[:1]), backbone(images[1:2])])
    if _differs(together, alone):
        yield Finding("batch", "split: an image's embedding depends on the others in its batch")


def _purity(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """Stages one by one, each on a copy: neither may an input change nor may anything pass around a stage."""
    import torch

    with torch.no_grad():
        whole = backbone(images)
        activation: Any = images
        for number, stage in enumerate(backbone.stages):
            before = _clone(activation)
            after = stage(activation)
            if _differs(before, activation, 0.0):
                yield Finding("in-place", f"split: stages[{number}] changes its input in place")
            # Another image through all stages in between shows state that is kept from call to call.
            backbone(torch.flip(images, (0,)) + 1)
            activation = _clone(after)
        if _differs(whole, backbone.pool(activation)):
            yield Finding("closed-over", "split: a stage uses something other than the activation it is given")


def _round_trip(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    import torch

    other = spec.split(spec.build())
    other.source_head = None
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        if _differs(backbone(images), other.eval()(images)):
            yield Finding("state", "build: a second module with the same state gives another embedding")


def _gradients(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    backbone.zero_grad()
    backbone(images[:2]).square().sum().backward()
    dead = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    backbone.zero_grad()
    if dead:
        yield Finding("gradients", f"split: no gradient reaches {dead[0]} ({len(dead)} parameters in all)")


def _freezing(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """Every freeze point: a training pass leaves what is below it as it was, statistics included."""
    import torch

    from zoo.nn.model import TransferModel, state_digest

    head = torch.nn.Linear(spec.num_features, 2)
    model = TransferModel(backbone=backbone, head=head, input_spec=spec.input)
    for frozen in range(1, len(backbone.stages) + 1):
        model.freeze(frozen)
        model.train()
        before = state_digest(model.frozen_modules())
        model(images).square().sum().backward()
        trained = [
            name for module in model.frozen_modules() for name, p in module.named_parameters() if p.grad is not None
        ]
        model.zero_grad()
        if trained or state_digest(model.frozen_modules()) != before:
            yield Finding("freezing", f"split: with {frozen} stages frozen, training still changes them")
            return


def _export(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    import tempfile
    from pathlib import Path

    import torch

    from zoo.nn.onnx_graph import export_graph
    from zoo.runtime.session import open_session

    axes = {0: torch.export.Dim("batch")}
    proto = export_graph(backbone, images[:2], inputs="images", outputs="embedding", axes=axes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        path.write_bytes(proto.SerializeToString())
        session = open_session(path, device="cpu")
        for batch in _EXPORT_BATCHES:
            with torch.no_grad():
                ours = backbone(images[:batch])
            theirs = torch.from_numpy(session.run(None, {"images": images[:batch].numpy()})[0])
            if _differs(ours, theirs, 10 * _TOLERANCE):
                worst = float((ours - theirs).abs().max())
                yield Finding("export", f"split: the ONNX export differs at batch {batch} by {worst:.1e}")
                return


def _differs(first: Any, second: Any, tolerance: float = _TOLERANCE) -> bool:
    """Whether two activations differ, relative to the size of the first."""
    if isinstance(first, tuple):
        return any(_differs(a, b, tolerance) for a, b in zip(first, second, strict=True))
    return bool((first - second).abs().max() > tolerance * first.abs().max())


def _clone(activation: Any) -> Any:
    return tuple(map(_clone, activation)) if isinstance(activation, tuple) else activation.clone()
