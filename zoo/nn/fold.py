"""BatchNorm with fixed statistics, made part of the convolution before it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.nn.model import TransferModel


@contextmanager
def folded(model: TransferModel) -> Iterator[None]:
    """Where `model` keeps its statistics, every BatchNorm right behind a convolution of the backbone is part of it.

    For the length of a `with` block. gamma (W x - mean) / sqrt(var + eps) + beta is one convolution with other weights
    and a bias. They are made of the parameters in every step, so that all of these get the gradients they would have
    got but for rounding, and a pass over every activation forward and one back are saved. What that gains:
    `benchmarks/loop.py`.
    """
    stages: Iterable[nn.Module] = model.backbone.stages if model.keep_statistics else []
    # Within another such block they are one already.
    pairs = [pair for stage in stages for pair in _pairs(stage) if "forward" not in vars(pair[0])]
    for convolution, norm in pairs:
        convolution.forward = partial(_normalised, convolution, norm)  # type: ignore[method-assign]
        norm.forward = _same  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for pair in pairs:
            for module in pair:
                del module.forward


def _pairs(stage: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions of `stage` whose outputs go into a BatchNorm and nowhere else."""
    modules = dict(stage.named_modules())
    if not any(type(module) is nn.BatchNorm2d for module in modules.values()):
        return []
    try:
        nodes = fx.Tracer().trace(stage).nodes
    except Exception:  # a plugin's code may fail in any way on symbols; then it runs as it is
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    found = []
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or {node.op, before.op} != {"call_module"}:
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        # Exactly these classes: one derived from them may compute something else.
        if type(norm) is nn.BatchNorm2d and type(convolution) is nn.Conv2d:
            alone = len(before.users) == calls[node.target] == calls[before.target] == 1
            if alone and norm.affine and norm.track_running_stats:
                found.append((convolution, norm))
    return found


def _normalised(convolution: Any, norm: Any, inputs: Tensor) -> Tensor:
    if not _pays(convolution, inputs):
        return nn.BatchNorm2d.forward(norm, nn.Conv2d.forward(convolution, inputs))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    mean = norm.running_mean if convolution.bias is None else norm.running_mean - convolution.bias
    weight = convolution.weight * scale[:, None, None, None]
    outputs: Tensor = convolution._conv_forward(inputs, weight, norm.bias - mean * scale)
    return outputs


def _pays(convolution: nn.Conv2d, inputs: Tensor) -> bool:
    """Whether there are more activations than weights, and passes over them cost more."""
    if inputs.device.type != "cpu":  # a bias is another pass there, and every operation on weights a launch
        return False
    positions = inputs[:, 0].numel() / math.prod(convolution.stride)
    return positions >= convolution.weight[0].numel()


def _same(inputs: Tensor) -> Tensor:
    return inputs
