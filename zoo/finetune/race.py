"""A race of learning rates: each gets a tenth of the epochs, the best goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from zoo.artifacts.runs import RunFolder
from zoo.finetune.loop import Training
from zoo.finetune.plan import Plan
from zoo.nn.average import Weights, trainable
from zoo.nn.model import TransferModel
from zoo.nn.weights import save_tensors
from zoo.progress import Progress

_FACTORS = (1 / 3, 1.0, 3.0)
_SHARE = 0.1

Start = Callable[[Plan, Path, Callable[[Mapping[str, Any]], None]], Training]
"""Makes a training of a plan, with its checkpoint file and what hears of its evaluations."""


def race(
    model: TransferModel, plan: Plan, start: Start, run: RunFolder, progress: Progress
) -> tuple[Plan, list[Weights]]:
    """`plan` with the best of three learning rates, and the weights that each came to, best first.

    `model` has the weights all start from, and has them again afterwards. A race that was cut off goes on where it was.
    """
    origin, device = deepcopy(model.state_dict()), str(next(model.parameters()).device)
    scores, paths = {}, {}
    short = plan.shortened(_SHARE)
    progress.say(f"three learning rates race for {short.epochs} of {plan.epochs} epochs each")
    for factor in _FACTORS:
        paths[factor] = run.checkpoint / f"race-{factor:.2g}.safetensors"

        def compete(factor: float = factor) -> tuple[float, float]:
            unfinished = run.checkpoint / f"race-{factor:.2g}-state.safetensors"
            training = start(short.scaled(factor), unfinished, _unheard)
            training.restore()
            training.run(progress)
            save_tensors(paths[factor], trainable(model))  # the same by all who train together, each in one step
            unfinished.unlink(missing_ok=True)
            return training.judge()

        scores[factor] = tuple(run.decide(f"score of learning rate x {factor:.2g}", compete))
        model.load_state_dict(origin)
    order = sorted(_FACTORS, key=scores.__getitem__, reverse=True)
    return plan.scaled(order[0]), [load_file(paths[factor], device=device) for factor in order]


def _unheard(row: Mapping[str, Any]) -> None:
    """Evaluations of a race are no part of the run's learning curve."""
