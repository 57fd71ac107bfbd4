"""The part of the contract that is about numbers: each line of a spec against what the network really gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zoo.specs import BackboneSpec, StageSpec
from zoo.testing.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.nn.backbone import Backbone


def shapes(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """Channels, strides and layout of every stage, and the width of the embedding."""
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
    elif embedding.dtype != torch.float32:
        yield Finding("dtype", f"split: pool gives {embedding.dtype}, must be torch.float32")
    elif not embedding.isfinite().all():
        yield Finding("finite", "split: pool gives NaN or infinity for ordinary images")


def _stage(spec: BackboneSpec, number: int, stage: StageSpec, tap: Any) -> Iterator[Finding]:
    rank = 3 if stage.layout == "NTC" else 4
    if getattr(tap, "ndim", None) != rank:
        given = f"of shape {tuple(tap.shape)}" if hasattr(tap, "shape") else type(tap).__name__
        yield Finding("layout", f"stages[{number}].layout: {stage.layout} declared, the activation is {given}")
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


def unowned(backbone: Backbone, state: Sequence[Tensor]) -> Iterator[Finding]:
    """Numbers of the staged backbone that are none of the native module's `state`: its pretrained ones get lost."""
    native = {id(tensor) for tensor in state}
    # Buffers that are no part of the state are computed, and may be anew.
    ours = backbone.state_dict(keep_vars=True).items()
    strange = [name for name, tensor in ours if tensor.is_floating_point() and id(tensor) not in native]
    if strange:
        yield Finding(
            "shared state",
            f"split: {strange[0]} is not the tensor of the module that build gives ({len(strange)} in all): pretrained "
            "weights would not reach it; use the module's own parts, not copies",
        )


def params(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:  # noqa: ARG001
    """Parameters without the source classifier."""
    from zoo.nn.size import count_params

    true = count_params([*backbone.stages, backbone.pool])
    if true != spec.params:
        yield Finding("params", f"params: {spec.params:,} declared, the true value is {true:,}")


def macs(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """Multiply-accumulate operations, to 1 %."""
    from zoo.nn.size import count_macs

    true = count_macs(backbone, images[:1])
    if abs(true - spec.macs) > 0.01 * true:
        yield Finding("macs", f"macs: {spec.macs:,} declared, the true value is {true:,}")


def source_classes(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """The classes of the source task, where the backbone brings its classifier."""
    import torch

    if backbone.source_head is None:
        return
    with torch.no_grad():
        true = backbone.source_head(backbone.run_stages(images)).shape[1]
    for weights in spec.weights:
        if weights.num_classes != true:
            yield Finding(
                "num_classes",
                f"weights {weights.tag!r}, num_classes: {weights.num_classes} declared, source_head gives {true}",
            )


def other_sizes(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Iterator[Finding]:
    """The next larger input that the spec says it takes."""
    import torch

    if spec.input.fixed_size:
        return
    divisor = spec.input.size_divisor
    height, width = spec.input.height + divisor, spec.input.width + divisor
    try:
        with torch.no_grad():
            given = tuple(backbone(images.new_zeros(2, spec.input.channels, height, width)).shape)
    except Exception as error:
        found = f"raises {type(error).__name__}: {error}"
    else:
        if given == (2, spec.num_features):
            return
        found = f"gives {given}"
    yield Finding(
        "input",
        f"input: size_divisor {divisor} and not fixed_size declared, an image of {height} x {width} {found}",
    )


FACTS = (params, macs, source_classes, other_sizes)
