"""What a search may change: the settings a user left open, how far each goes, and what it is without a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from zoo.errors import UsageError
from zoo.finetune.plan import Plan
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Resolved
from zoo.nn.augment import Augment

_LR_FACTOR = 10
_LAYER_DECAYS = (0.5, 1.0)
_DROPOUT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """The values one setting may take, and the one it has without a search."""

    range: BaseDistribution
    default: Any


def search_space(request: FinetuneRequest, resolved: Resolved, plan: Plan) -> dict[str, Dimension]:
    """The settings to search, by name; `plan` is that of the request as it is.

    What the user gave is not searched. Raises UsageError where nothing is left.
    """
    strategy, stages, options = plan.strategy, len(plan.stages), resolved.head.spec.options
    space: dict[str, Dimension] = {}
    if request.lr is None:
        rates = FloatDistribution(strategy.lr / _LR_FACTOR, strategy.lr * _LR_FACTOR, log=True)
        space["lr"] = Dimension(range=rates, default=strategy.lr)
    # Random stages have nothing to keep: there is no reason for lower ones to learn more slowly.
    if request.layer_decay is None and strategy.pretrained and stages > 1:
        space["layer_decay"] = Dimension(range=FloatDistribution(*_LAYER_DECAYS), default=strategy.layer_decay)
    if request.freeze_stages is None and strategy.takes_freeze_stages:
        space["freeze_stages"] = Dimension(range=IntDistribution(0, stages - 1), default=plan.freeze_stages)
    if not request.average:
        space["average"] = Dimension(range=CategoricalDistribution((False, True)), default=False)
    if request.augment == "auto":
        space["augment"] = Dimension(range=CategoricalDistribution(get_args(Augment)), default=plan.augment)
    if "dropout" in options and "dropout" not in request.head_options:
        usual = options["dropout"]
        space["dropout"] = Dimension(range=FloatDistribution(0.0, max(usual, _DROPOUT)), default=usual)
    if not space:
        raise UsageError(f"--trials {request.trials}: every setting is given, none is left to search; leave one out")
    return space


def with_settings(request: FinetuneRequest, settings: Mapping[str, Any]) -> FinetuneRequest:
    """The request of one trial: a single training with these settings."""
    options, head_options = dict(settings), dict(request.head_options)
    if "dropout" in options:
        head_options["dropout"] = options.pop("dropout")
    return replace(request, trials=None, compare_scratch=False, head_options=head_options, **options)
