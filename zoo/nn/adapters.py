"""Low-rank adapters beside the linear layers of a backbone, by PEFT, and back into plain weights."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from zoo.errors import MissingExtraError, UsageError, ZooError
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel, tensors_digest

AdapterKind = Literal["lora", "dora"]
_SCALE = 2.0
"""What an adapter gives is multiplied by this (alpha over rank)."""
_STAGES = "stages."


class Adapters:
    """Trainable low-rank changes of a model's linear layers, everything else of its backbone held as it is.

    LoRA (Hu et al. 2022): W x becomes W x + s B A x, with B zero at the start. DoRA (Liu et al. 2024) trains the length
    of each row of W beside it. Made on a model, they train with it; `merge` makes plain weights of them again.
    """

    def __init__(self, model: TransferModel, *, kind: AdapterKind, rank: int, seed: int) -> None:
        """Puts adapters on `model`. Raises UsageError where its backbone has no linear layers, MissingExtraError."""
        peft = _peft()
        self._model = model
        self._before = _digest(model.backbone)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=_SCALE * rank,
            use_dora=kind == "dora",
            target_modules=[name for name, _ in adaptable(model)],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, model.backbone)
        model.hold(p for name, p in model.backbone.named_parameters() if not _is_adapter(name))

    def merge(self) -> None:
        """Makes the adapters part of the weights they stand beside, and lets go of these.

        Raises ZooError where training has changed something else of the backbone: a bug.
        """
        if _digest(self._model.backbone) != self._before:
            raise ZooError("weights beside the adapters changed in training; report this as a bug of Zoo")
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(self._model.backbone.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                parent, _, last = name.rpartition(".")
                setattr(self._model.backbone.get_submodule(parent), last, module.get_base_layer())
        self._model.hold(())


def adaptable(model: TransferModel) -> list[tuple[str, nn.Linear]]:
    """The linear layers of the backbone's stages that adapters can stand beside, by name.

    Those that are called: the weights of others are read by code that would not see an adapter. Raises UsageError where
    there are none.
    """
    linear = [(n, m) for n, m in model.backbone.named_modules() if isinstance(m, nn.Linear) and n.startswith(_STAGES)]
    called: set[nn.Module] = set()
    was_training, spec = model.training, model.preprocess.spec
    device = next(model.parameters()).device
    with ExitStack() as stack, torch.no_grad():
        for _, module in linear:
            stack.callback(module.register_forward_hook(lambda module, *_: called.add(module)).remove)
        model.eval().backbone(torch.zeros(1, spec.channels, spec.height, spec.width, device=device))
    model.train(was_training)
    found = [(name, module) for name, module in linear if module in called]
    if not found:
        raise UsageError(
            "a backbone without linear layers: nothing to put adapters on; use --strategy partial or lp-ft"
        )
    return found


def adapter_params(model: TransferModel, *, kind: AdapterKind, rank: int) -> list[int]:
    """Parameters of the adapters in each stage."""
    _peft()
    counts = [0] * len(model.backbone.stages)
    for name, module in adaptable(model):
        magnitudes = module.out_features if kind == "dora" else 0
        counts[int(name.split(".")[1])] += rank * (module.in_features + module.out_features) + magnitudes
    return counts


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError("PEFT is not installed: adapters need it; pip install 'zoo[lora]'") from None
    return peft


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _digest(backbone: Backbone) -> str:
    """A sha256 over everything that is no adapter, under the names that it has without them."""
    return tensors_digest(
        (name.replace(".base_layer.", "."), tensor)
        for name, tensor in backbone.state_dict().items()
        if not _is_adapter(name)
    )
