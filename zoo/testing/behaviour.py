"""The part of the contract that is about conduct: what stages must do for freezing, caching and exporting to hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.specs import BackboneSpec
from zoo.testing.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.nn.backbone import Backbone

_TOLERANCE = 1e-4
"""Largest relative difference between two ways to compute the same thing in float32."""
_EXPORT_BATCHES = (1, 2, 3)


def in_place(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """No stage changes what it is given: that may be kept, and used again."""
    import torch

    activation: Any = images
    with torch.no_grad():
        for number, stage in enumerate(backbone.stages):
            given = _clone(activation)
            after = stage(given)
            if _differs(activation, given, 0.0):
                yield Finding("in-place", f"split: stages[{number}] changes its input in place")
            activation = after


def determinism(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """Two passes in eval mode give the same bits."""
    import torch

    with torch.no_grad():
        if not torch.equal(backbone(images), backbone(images)):
            yield Finding("determinism", "split: two passes in eval mode differ (dropout or noise that ignores eval?)")


def batch(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """An embedding does not depend on what else is in the batch."""
    import torch

    with torch.no_grad():
        together = backbone(images[:2])
        alone = torch.cat([backbone(images[:1]), backbone(images[1:2])])
    if _differs(together, alone):
        yield Finding("batch", "split: an image's embedding depends on the others in its batch")


def purity(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """Stages one by one: nothing may pass around a stage."""
    import torch

    with torch.no_grad():
        whole = backbone(images)
        activation: Any = images
        for stage in backbone.stages:
            activation = _clone(stage(activation))
            # Another image through all stages in between shows state that is kept from call to call.
            backbone(torch.flip(images, (0,)) + 1)
        if _differs(whole, backbone.pool(activation)):
            yield Finding("closed-over", "split: a stage uses something other than the activation it is given")


def separate_stages(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """No parameter belongs to two stages: freezing one would freeze part of the other."""
    owned = [{id(p): name for name, p in stage.named_parameters()} for stage in backbone.stages]
    for first, second in itertools.combinations(range(len(owned)), 2):
        both = owned[first].keys() & owned[second].keys()
        if both:
            name = owned[first][next(iter(both))]
            yield Finding(
                "separate stages", f"split: {name} of stages[{first}] is a parameter of stages[{second}], too"
            )


def round_trip(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """A second module with the same state is the same network."""
    import torch

    other = spec.split(spec.build())
    other.source_head = None
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        if _differs(backbone(images), other.eval()(images)):
            yield Finding("state", "build: a second module with the same state gives another embedding")


def gradients(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """A backward pass reaches every parameter."""
    backbone.zero_grad()
    backbone(images[:2]).square().sum().backward()
    trained = [("stages", backbone.stages), ("pool", backbone.pool)]
    dead = [f"{part}.{name}" for part, module in trained for name, p in module.named_parameters() if p.grad is None]
    backbone.zero_grad()
    if dead:
        yield Finding("gradients", f"split: no gradient reaches {dead[0]} ({len(dead)} parameters in all)")


def freezing(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
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


def exports(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """ONNX Runtime gives the same embeddings, at several batch sizes."""
    import tempfile
    from pathlib import Path

    import torch

    from zoo.nn.onnx_graph import export_graph
    from zoo.runtime.session import open_session

    axes = {0: torch.export.Dim("batch")}
    proto = export_graph(backbone, images[:2], inputs="images", outputs=["embedding"], axes=axes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        path.write_bytes(proto.SerializeToString())
        session = open_session(path, device="cpu")
        for count in _EXPORT_BATCHES:
            with torch.no_grad():
                ours = backbone(images[:count])
            theirs = torch.from_numpy(session.run(None, {"images": images[:count].numpy()})[0])
            if _differs(ours, theirs, 10 * _TOLERANCE) and not _as_exact(backbone, images[:count], ours, theirs):
                worst = float((ours - theirs).abs().max())
                yield Finding("exports", f"split: the ONNX export differs at batch {count} by {worst:.1e}")
                return


def _as_exact(backbone: Backbone, images: Tensor, ours: Tensor, theirs: Tensor) -> bool:
    """Whether an export is about as near to the true values as torch is: some deep networks magnify rounding."""
    import copy

    import torch

    with torch.no_grad():
        true = copy.deepcopy(backbone).double()(images.double())
    return bool((theirs - true).abs().max() <= 2 * (ours - true).abs().max())


BEHAVIOUR = (in_place, separate_stages, gradients, freezing)
COMPARISONS = (batch, purity, round_trip)
"""These compare two ways to one result, and say nothing where the same way has two results."""


def _differs(first: Any, second: Any, tolerance: float = _TOLERANCE) -> bool:
    """Whether two activations differ, relative to the size of the first."""
    if isinstance(first, tuple):
        return any(_differs(a, b, tolerance) for a, b in zip(first, second, strict=True))
    return bool((first - second).abs().max() > tolerance * first.abs().max())


def _clone(activation: Any) -> Any:
    return tuple(map(_clone, activation)) if isinstance(activation, tuple) else activation.clone()
