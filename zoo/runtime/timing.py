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
ROUNDS = 10
"""How often each contender has its turn."""


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

    def rounds_faster_than(self, other: Timing) -> float:
        """The share of rounds in which this one was faster than `other`."""
        return float(np.mean(self.rounds < other.rounds))

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds lie apart, as a share of the median."""
        low, middle, high = np.percentile(self.rounds, (25, 50, 75))
        return float((high - low) / middle)


def take_turns(
    calls: Sequence[Call],
    *,
    seconds: float,
    fewest: int = _MIN_RUNS,
    rounds: int = ROUNDS,
    warm_seconds: float = _WARM_SECONDS,
    rests: Sequence[float] = (),
) -> list[Timing]:
    """Calls each of `calls` for `seconds` and `fewest` times at least, in `rounds` turns, once its times have settled.

    They get `warm_seconds` to settle at least, ten times as long at most. After each turn of a contender nothing
    happens for its seconds in `rests`: its threads may still be waiting busily, as ONNX Runtime's own defaults have it.
    """
    rests = rests or [0.0] * len(calls)
    for call, rest in zip(calls, rests, strict=True):
        _settle(call, warm_seconds)
        time.sleep(rest)
    found: list[list[NDArray[np.float64]]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, rest, turns in zip(calls, rests, found, strict=True):
            call()  # what the others left in the processor's caches is not its own doing
            turns.append(_times(call, seconds / rounds, fewest=-(-fewest // rounds)))
            time.sleep(rest)
    return [Timing(np.concatenate(turns), np.array([np.median(each) for each in turns])) for turns in found]


def _settle(call: Call, warm_seconds: float) -> None:
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
        if (stable and elapsed > warm_seconds) or elapsed > 10 * warm_seconds:
            return


def _times(call: Call, seconds: float, *, fewest: int) -> NDArray[np.float64]:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < fewest or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times)
