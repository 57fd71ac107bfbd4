"""Where images leave a gated cascade: counted, and compared with where they left it when its threshold was chosen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW = 1_000
_DRIFT = 0.1

_log = logging.getLogger(__name__)


class ExitCounter:
    """Counts the member at which each image stopped. A warning is logged where, of a thousand images in a row, the
    share that stopped at some member is ten points away from what is expected: the images have changed."""

    def __init__(self, model: str, members: Sequence[str], expected: Sequence[float]) -> None:
        self._model = model
        self.members = members
        self._expected = np.array(expected)
        self._counts = np.zeros(len(members), np.int64)
        self._window = np.zeros(len(members), np.int64)
        self._lock = threading.Lock()

    def add(self, exits: NDArray[np.int64]) -> None:
        """Takes in the exits [N] of some images."""
        counts = np.bincount(exits, minlength=len(self.members))
        with self._lock:
            self._counts += counts
            self._window += counts
            if self._window.sum() < _WINDOW:
                return
            rates, self._window = self._window / self._window.sum(), np.zeros_like(self._window)
        member = int(np.abs(rates - self._expected).argmax())
        if abs(rates[member] - self._expected[member]) > _DRIFT:
            _log.warning(
                "%s: %.0f %% of the last images stopped at %s, expected %.0f %%; they are unlike those that chose the "
                "threshold, and its promise may not hold",
                *(self._model, 100 * rates[member], self.members[member], 100 * self._expected[member]),
            )

    @property
    def counts(self) -> list[int]:
        """How many images stopped at each member since the start."""
        with self._lock:
            counted: list[int] = self._counts.tolist()
        return counted

    def to_json(self, counts: Sequence[int]) -> list[dict[str, Any]]:
        """For each member: how many images stopped there, their share, and the expected one."""
        total = sum(counts)
        return [
            {"member": name, "count": count, "rate": count / total if total else None, "expected_rate": expected}
            for name, count, expected in zip(self.members, counts, self._expected.tolist(), strict=True)
        ]
