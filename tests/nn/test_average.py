"""Averages of weights are what their papers say."""

from __future__ import annotations

import torch
from torch import nn

from zoo.nn.average import MovingAverage, greedy_soup, interpolate, put, trainable


def _model(value: float) -> nn.Linear:
    model = nn.Linear(1, 1)
    put(model, {"weight": torch.tensor([[value]]), "bias": torch.zeros(1)})
    return model


def test_the_moving_average_forgets_its_start_and_follows() -> None:
    model = _model(0.0)
    average = MovingAverage(model)
    expected = 0.0
    for step in range(300):
        put(model, {"weight": torch.tensor([[step / 100]])})
        average.update(step)
        decay = min(0.99, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step / 100
    assert abs(float(average.weights["weight"]) - expected) < 1e-5
    with average.applied():
        assert abs(model.weight.item() - expected) < 1e-5
    assert abs(model.weight.item() - 2.99) < 1e-6


def test_interpolation_stops_where_it_is_best() -> None:
    start = trainable(_model(0.0))
    for goal, place in ((0.0, 0.25), (1.1, 0.5), (1.6, 0.75), (2.0, 1.0)):
        model = _model(2.0)
        found = interpolate(model, start, lambda model=model, goal=goal: (-abs(model.weight.item() - goal), 0.0))
        assert found == place
        assert abs(model.weight.item() - 2 * place) < 1e-6
    model = _model(2.0)
    assert interpolate(model, start, None) == 0.5
    assert abs(model.weight.item() - 1.0) < 1e-6


def test_a_soup_takes_only_what_does_not_spoil_it() -> None:
    model = _model(1.0)
    others = [trainable(_model(value)) for value in (3.0, 100.0, 2.0)]
    taken = greedy_soup(model, others, lambda: (-abs(model.weight.item() - 2.0), 0.0))
    assert taken == 2
    assert abs(model.weight.item() - 2.0) < 1e-6
