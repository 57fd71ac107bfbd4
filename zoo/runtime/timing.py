"""Times of calls that are compared: taken in turn, so that a slow minute of the machine falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]

_WARM_SECONDS = 0.5
_WARM_WINDOW = 10
_STABLE = 0.1
_MIN_RUNS = 20
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contender's calls."""

    seconds: NDArray[np.float64]
    rounds: NDArray[np.float64]
    """The median of each round, in which every contender had its turn."""

    @property
    def median(self) -> float:
        """The median of all calls, in seconds."""
        return float(np.median(self.seconds))

    def times_as_fast_as(self, other: Timing) -> float:
        """How many calls this one makes in the time of one call of `other`: the median over rounds."""
        return float(np.median(other.rounds / self.rounds))


def take_turns(calls: Sequence[Call], *, seconds: float, fewest: int = _MIN_RUNS) -> list[Timing]:
    """Calls each of `calls` for `seconds` and `fewest` times at least, ten turns each, once its times have settled."""
    for call in calls:
        _settle(call)
    found: list[list[NDArray[np.float64]]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, rounds in zip(calls, found, strict=True):
            call()  # what the others left in the processor's caches is not its own doing
            rounds.append(_times(call, seconds / _ROUNDS, fewest=-(-fewest // _ROUNDS)))
    return [Timing(np.concatenate(rounds), np.array([np.median(each) for each in rounds])) for rounds in found]


def _settle(call: Call) -> None:
    """Calls until the last ten times lie within 10 % of the ten before, at most for a while."""
    times: list[float] = []
    began = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        older, newer = times[-2 * _WARM_WINDOW : -_WARM_WINDOW], times[-_WARM_WINDOW:]
        stable = bool(older) and abs(np.median(newer) / np.median(older) - 1) < _STABLE
        elapsed = time.perf_counter() - began
        if (stable and elapsed > _WARM_SECONDS) or elapsed > 10 * _WARM_SECONDS:
            return


def _times(call: Call, seconds: float, *, fewest: int) -> NDArray[np.float64]:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < fewest or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times)
