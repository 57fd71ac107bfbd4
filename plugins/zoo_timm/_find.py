"""How any timm model falls into stages: by watching which of its modules hand their result to the next.

`forward_features` of most models is a chain of modules, with a few lines of code between two of them (position
embeddings, a change of layout). One pass shows the chain: each module gets what the one before gave, and nothing
else. The chain from the image on, and the one that ends in the result, are used as they are. What lies between, code
included, is the model itself with every module of the two chains replaced by one that hands on what it is given.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.specs import Layout, StageSpec
from zoo_timm._split import MIDDLE, Part, Split, parts_of

_MOST_STAGES = 6
_EQUAL_STAGES = 4
"""So many stages a network of equal blocks is cut into."""
_Identity = tuple[int, int] | None
"""Which value, and how often it had been changed in place; None where it was not the only one."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a part."""

    part: Part
    given: _Identity
    gave: _Identity
    input: Any
    output: Any


def find_split(model: Any, images: Tensor) -> tuple[Split, list[Tensor], Tensor]:
    """How a timm model is split, what its stages give for `images`, and the embedding of these.

    For models and images on the meta device, where it costs nothing. Raises TypeError where the model gives something
    else than one map or one row of tokens for each image.
    """
    calls, result = _watch(model, images, model.forward_features)
    if not isinstance(result, Tensor):
        raise TypeError(f"forward_features gives {type(result).__name__}; a backbone gives one tensor")
    pooling = _called(model, result, partial(model.forward_head, pre_logits=True))
    classifying = _called(model, result, model.forward_head)
    first, last = _chains(calls, images, result)
    # The code between the chains may look into a module of one of them instead of calling it: then that stays with it.
    for before, after in ((first, last), ([], last), (first, []), ([], [])):
        chained = {call.part for call in (*before, *after)}
        start = before[-1].gave if before else _identity(images)
        end, value = (after[0].given, after[0].input) if after else (_identity(result), result)
        items = [(call.part, call.output) for call in before]
        if start != end:
            items.append((MIDDLE, value))
        items += [(call.part, call.output) for call in after]
        split = Split(
            stages=_group(items, model, images),
            # Parts that are never called may be read.
            middle=tuple(part for part, _ in parts_of(model) if part not in chained | pooling | classifying),
            head=tuple(part for part, _ in parts_of(model) if part in pooling),
            classifier=tuple(sorted(classifying - pooling)),
            copied=frozenset(),
        )
        try:
            return _tried(split, model, images, result)
        except (AttributeError, RuntimeError, ValueError, TypeError):
            if not chained:
                raise
    raise AssertionError  # the last of the four either returns or raises


def _watch(model: nn.Module, given: Tensor, method: Callable[[Tensor], Any]) -> tuple[list[_Call], Any]:
    """The calls of parts while a method of the model runs, in order, and its result."""
    calls: list[_Call] = []
    entered: list[tuple[Any, _Identity]] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alone = len(args) == 1 and all(value is None for value in kwargs.values())
        value = args[0] if args else None
        entered.append((value, _identity(value) if alone else None))

    def leave(part: Part) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            value, identity = entered.pop()
            # The values are kept until the end, so that no identity is used twice.
            calls.append(_Call(part, identity, _identity(output), value, output))

        return note

    handles = []
    for part, module in parts_of(model):
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave(part)))
    try:
        with torch.no_grad():
            return calls, method(given)
    finally:
        for handle in handles:
            handle.remove()


def _called(model: nn.Module, given: Tensor, method: Callable[[Tensor], Any]) -> set[str]:
    """The names of all modules, however deep, that a method of the model calls."""
    names: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: names.add(name)) for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            method(given)
    finally:
        for handle in handles:
            handle.remove()
    return names


def _identity(value: Any) -> _Identity:
    return id(value), value._version if isinstance(value, Tensor) else 0


def _chains(calls: Sequence[_Call], images: Tensor, result: Any) -> tuple[list[_Call], list[_Call]]:
    """The calls that lead straight from the images on, and those after them that lead straight to the result."""
    times = Counter(call.part for call in calls)
    first: list[_Call] = []
    last: list[_Call] = []
    here = _identity(images)
    for call in calls:
        if call.given != here or times[call.part] > 1:
            break
        first.append(call)
        here = call.gave
    here = _identity(result)
    for call in reversed(calls[len(first) :]):
        if call.gave != here or call.given is None or times[call.part] > 1:
            break
        last.insert(0, call)
        here = call.given
    return first, last


def _group(items: Sequence[tuple[Part, Any]], model: Any, images: Tensor) -> tuple[tuple[Part, ...], ...]:
    """Parts to stages: where timm's own feature info says, where the stride changes, or in four equal shares."""
    ends = [number for number, (_, value) in enumerate(items) if isinstance(value, Tensor) and value.ndim in (3, 4)]
    strides = {end: describe(items[end][1], images, model).stride for end in ends}
    marked = sorted(set(ends) & set(_feature_ends([part for part, _ in items], model)))
    ends = marked if len(marked) > 1 else ends
    cuts = ends if ends is marked and len(marked) <= _MOST_STAGES else _changes(ends, strides)
    if len({strides[end] for end in cuts}) == 1:
        shares = min(_EQUAL_STAGES, len(ends))
        cuts = [ends[math.ceil(len(ends) * share / shares) - 1] for share in range(1, shares + 1)]
    starts = [0, *(cut + 1 for cut in cuts[:-1])]
    stops = [*starts[1:], len(items)]
    return tuple(tuple(part for part, _ in items[a:b]) for a, b in zip(starts, stops, strict=True))


def _changes(ends: Sequence[int], strides: Mapping[int, int]) -> list[int]:
    """The last of each row of ends with the same stride."""
    return [*(end for end, after in itertools.pairwise(ends) if strides[end] != strides[after]), ends[-1]]


def _feature_ends(parts: Sequence[Part], model: Any) -> Iterator[int]:
    for info in getattr(model, "feature_info", None) or ():
        name = str(info.get("module"))
        inside = [n for n, part in enumerate(parts) if f"{part}.".startswith(f"{name}.") or name.startswith(f"{part}.")]
        if inside:
            yield inside[-1]


def _tried(split: Split, model: Any, images: Tensor, result: Tensor) -> tuple[Split, list[Tensor], Tensor]:
    """A pass through the stages. Raises whatever the model's code raises where it misses one of its parts."""
    backbone = split.apply(model)
    activation, given, copied = images, [], set()
    with torch.no_grad():
        for number, stage in enumerate(backbone.stages):
            version = activation._version
            after = stage(activation)
            if activation._version != version:
                copied.add(number)
            activation = after
            given.append(activation)
        if activation.shape != result.shape:
            raise ValueError(f"stages give {tuple(activation.shape)}, the model {tuple(result.shape)}")
        embedding = backbone.pool(activation)
    return replace(split, copied=frozenset(copied)), given, embedding


def describe(activation: Tensor, images: Tensor, model: Any) -> StageSpec:
    """The facts of a stage that gives this activation."""
    height, width = images.shape[2:]
    if activation.ndim == 3:
        return StageSpec(
            channels=activation.shape[2], stride=_near(math.sqrt(height * width / activation.shape[1])), layout="NTC"
        )
    # Square images leave square maps, which show where the channels are; only a cube does not.
    cube = activation.shape[1] == activation.shape[2] == activation.shape[3]
    last = getattr(model, "output_fmt", "NCHW") == "NHWC" if cube else activation.shape[2] != activation.shape[3]
    layout: Layout = "NHWC" if last else "NCHW"
    axis, side = (3, 1) if last else (1, 2)
    return StageSpec(channels=activation.shape[axis], stride=_near(height / activation.shape[side]), layout=layout)


def _near(stride: float) -> int:
    """The stride that was meant: unpadded convolutions lose a pixel or two, class tokens are no patches."""
    power = 2 ** round(math.log2(stride))
    return power if 0.9 < stride / power < 1.1 else max(1, round(stride))
