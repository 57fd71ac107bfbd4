"""A timm model as stages that share its parameters, once it is known which of its modules belong to which."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from zoo.nn.backbone import Backbone

MIDDLE = "*"
"""The name of what lies between the chains."""
Part = str
"""The name of a module; those that only hold a row of others are opened."""
_Method = Literal["forward_features", "forward_head"]


@dataclass(frozen=True, slots=True)
class Split:
    """How one architecture is split, found once, on a model without memory."""

    stages: tuple[tuple[Part, ...], ...]
    """Names of the modules of each stage, in order; `*` is the model without those of any stage."""
    middle: tuple[Part, ...]
    """The modules that `*` has."""
    head: tuple[Part, ...]
    """The modules of the pool."""
    classifier: tuple[str, ...]
    """What in these is of the source task."""
    copied: frozenset[int]
    """Stages that would change what they are given in place."""

    def apply(self, model: nn.Module) -> Backbone:
        """The staged backbone of a model of this architecture, sharing its parameters."""
        parts = dict(parts_of(model))
        parts[MIDDLE] = _Partial(model, self.middle, "forward_features")
        stages = []
        for number, names in enumerate(self.stages):
            modules = [parts[name] for name in names]
            stages.append(nn.Sequential(*([_Copy()] if number in self.copied else []), *modules))
        pool = _Partial(model, self.head, "forward_head", without=self.classifier, pre_logits=True)
        classes = getattr(model, "num_classes", 0)
        everything = [name for name, _ in parts_of(model)]
        head = _Partial(model, [n for n in everything if n not in self._staged], "forward_head") if classes else None
        return Backbone(stages=stages, pool=pool, source_head=head)

    @property
    def _staged(self) -> set[Part]:
        return {*self.middle, *(name for names in self.stages for name in names)}


class _HandOn(nn.Identity):  # some code asks whether a module is one
    """In the place of a module that belongs to another stage."""

    def forward(self, input: Any, *_: Any, **__: Any) -> Any:  # noqa: A002
        return input


class _Copy(nn.Module):
    """Before modules that change their input in place."""

    def forward(self, activation: Tensor) -> Tensor:
        return activation.clone()


class _Partial(nn.Module):
    """One method of a model that has only some of its modules; the others hand on."""

    def __init__(
        self, model: nn.Module, kept: Sequence[Part], method: _Method, *, without: Sequence[str] = (), **arguments: Any
    ) -> None:
        super().__init__()
        self.model = _shell(model, set(kept), without, own=method == "forward_features")
        self.method = method
        self.arguments = arguments

    def forward(self, activation: Any) -> Any:
        return getattr(self.model, self.method)(activation, **self.arguments)


def _shell(module: nn.Module, kept: set[Part], without: Sequence[str], *, own: bool, prefix: str = "") -> nn.Module:
    """A copy of `module` that has the parts in `kept`, shared, and its `own` parameters; the rest hands on, and what is
    `without`, however deep."""
    shell = copy.copy(module)
    modules: dict[str, nn.Module | None] = {}
    for name, child in module._modules.items():
        path = f"{prefix}{name}"
        if child is None:
            modules[name] = None
        elif _opened(child):
            modules[name] = _shell(child, kept, without, own=own, prefix=f"{path}.")
        elif path not in kept or path in without:
            modules[name] = _HandOn()
        elif any(each.startswith(f"{path}.") for each in without):
            inside = {f"{path}.{each}" for each, _ in parts_of(child)}
            modules[name] = _shell(child, inside, without, own=True, prefix=f"{path}.")
        else:
            modules[name] = child
    shell.__dict__["_modules"] = modules
    shell.__dict__["_parameters"] = dict(module._parameters) if own else dict.fromkeys(module._parameters)
    shell.__dict__["_buffers"] = dict(module._buffers) if own else dict.fromkeys(module._buffers)
    return shell


def _opened(child: nn.Module) -> bool:
    """Whether a module is but a row of others. Exactly these classes: one derived from them may do more."""
    return type(child) in (nn.Sequential, nn.ModuleList) and len(cast("nn.ModuleList", child)) > 0


def parts_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[Part, nn.Module]]:
    """The modules of a model by name, rows of modules opened."""
    for name, child in module.named_children():
        if _opened(child):
            yield from parts_of(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child
