"""Averages of weights: over the steps of a training, between its ends, over several trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
"""Trainable parameters (and running statistics) by name."""
Judge = Callable[[], tuple[float, float]]
"""How good the model is with the weights it has now; larger is better."""

_HORIZON = 0.99
_STATISTICS = (".running_mean", ".running_var")
INTERPOLATION_GRID = (0.25, 0.5, 0.75)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the model's trainable parameters."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def put(model: nn.Module, weights: Weights) -> None:
    """Copies `weights` into the model."""
    state = model.state_dict()
    for name, value in weights.items():
        state[name].copy_(value)


class MovingAverage:
    """The exponential moving average of a model's trainable parameters and of its running statistics.

    The decay after step t is min(.99, (1 + t) / (10 + t)), so that early averages do not hang on to the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        statistics = [name for name, _ in model.named_buffers() if name.endswith(_STATISTICS)]
        self.weights = {**trainable(model), **named(model, statistics)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in what the model has after step number `step`."""
        state = self._model.state_dict()
        decay = min(_HORIZON, (1 + step) / (10 + step))
        for name, value in self.weights.items():
            value.lerp_(state[name], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages for the length of a `with` block."""
        own = named(self._model, self.weights)
        put(self._model, self.weights)
        try:
            yield
        finally:
            put(self._model, own)


def named(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the model's parameters and buffers of these names."""
    state = model.state_dict()
    return {name: state[name].clone() for name in names}


def interpolate(model: nn.Module, start: Weights, judge: Judge | None) -> float:
    """Leaves the model on the line from `start` to its own weights, where `judge` likes it best; the place, 0 to 1.

    Without a judge that is the middle. Wortsman et al. 2022 (WiSE-FT): the line between a zero-shot (here: probed)
    model and its fine-tuned self holds models better than both.
    """
    end = named(model, start)

    def go(place: float) -> None:
        put(model, {name: torch.lerp(value, end[name], place) for name, value in start.items()})

    if judge is None:
        go(0.5)
        return 0.5
    best, chosen = judge(), 1.0
    for place in INTERPOLATION_GRID:
        go(place)
        found = judge()
        if found > best:
            best, chosen = found, place
    go(chosen)
    return chosen


def greedy_soup(model: nn.Module, others: Sequence[Weights], judge: Judge) -> int:
    """Averages `others`, best first, into the model as long as `judge` finds it no worse; how many went in.

    Wortsman et al. 2022 (Model soups), recipe 1. All must have started from the same weights.
    """
    soup, count, best = named(model, others[0]) if others else {}, 1, judge()
    for weights in others:
        mixed = {name: torch.lerp(value, weights[name], 1 / (count + 1)) for name, value in soup.items()}
        put(model, mixed)
        found = judge()
        if found >= best:
            soup, count, best = mixed, count + 1, found
    put(model, soup)
    return count - 1
