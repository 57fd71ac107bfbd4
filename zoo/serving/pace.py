"""How a model is best called: measured when it is loaded, with every batch size it will be called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.serving.batching import Feeds, Infer, Pace

Sample = Callable[[int], Feeds]

_INLINE_SECONDS = 1e-3
"""Calls up to here hold up the event loop for less than it takes to hand them to a thread and back."""
_LONGEST_SECONDS = 0.25
"""Of a call: the next request may have to wait for so long."""
_GAIN = 0.05
_CALLS, _SECONDS = 5, 0.05


def measure_pace(infer: Infer, sample: Sample, outputs: Sequence[str], *, limit: int, joins: bool) -> Pace:
    """The batch size from which more rows in a call gain less than 5 % per row.

    `sample` makes inputs of so many rows. Without `joins`, or where rows in one call get other answers than alone
    (a first axis need not be one of independent rows), or where sizes up to `limit` do not help, requests are not
    joined. Sizes are powers of two.
    """
    best = _row_seconds(infer, sample(1), outputs)
    pace = Pace(max_batch=1, row_seconds=best, inline=best <= _INLINE_SECONDS)
    if not joins or not _rows_are_independent(infer, sample(2), outputs):
        return pace
    rows = 2
    while rows <= limit:
        found = _row_seconds(infer, sample(rows), outputs)
        if found * rows > _LONGEST_SECONDS or found > (1 + _GAIN) * best:
            break
        if found < (1 - _GAIN) * best:
            best = found
            pace = Pace(max_batch=rows, row_seconds=best, inline=best * rows <= _INLINE_SECONDS)
        rows *= 2
    return pace


def _row_seconds(infer: Infer, feeds: Feeds, outputs: Sequence[str]) -> float:
    """Seconds per row: the median of some calls after a first one."""
    rows = max(len(array) for array in feeds.values() if array.ndim) if feeds else 1
    infer([feeds], outputs)
    seconds: list[float] = []
    while len(seconds) < _CALLS or (sum(seconds) < _SECONDS and len(seconds) < 20 * _CALLS):
        began = perf_counter()
        infer([feeds], outputs)
        seconds.append(perf_counter() - began)
        if sum(seconds) > 1:
            break
    return median(seconds) / max(rows, 1)


def _rows_are_independent(infer: Infer, feeds: Feeds, outputs: Sequence[str]) -> bool:
    """Whether two rows get the same answers together as each alone."""
    together = infer([feeds], outputs)
    alone = [infer([{name: array[row : row + 1] for name, array in feeds.items()}], outputs) for row in range(2)]
    for number, whole in enumerate(together):
        parts = [answers[number] for answers in alone]
        if whole.ndim == 0 or len(whole) != 2 or any(part.shape != whole[:1].shape for part in parts):
            return False
        joined = np.concatenate(parts)
        if not same_answers(whole, joined):
            return False
    return True


def same_answers(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays are the same, but for the order in which sums are computed."""
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
