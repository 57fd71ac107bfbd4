"""The three promises of transfer learning, read off a learning curve: higher start, higher slope, higher asymptote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Accuracy on one split against optimiser steps; step 0 is before the first step."""

    steps: tuple[int, ...]
    accuracy: tuple[float, ...]

    @classmethod
    def from_metrics(cls, rows: Sequence[Mapping[str, Any]], key: str = "test_accuracy") -> LearningCurve:
        """The curve in the rows of a run's metrics.jsonl; rows without `key` are left out."""
        points = [(row["step"], row[key]) for row in rows if key in row]
        return cls(steps=tuple(step for step, _ in points), accuracy=tuple(value for _, value in points))

    @property
    def start(self) -> float:
        """Accuracy before the first step."""
        return self.accuracy[0]

    @property
    def asymptote(self) -> float:
        """Accuracy at the end."""
        return self.accuracy[-1]

    def steps_to(self, level: float) -> int | None:
        """The first measured step at which the accuracy is at least `level`; None where it never is.

        The fewer, the steeper the curve.
        """
        return next((s for s, value in zip(self.steps, self.accuracy, strict=True) if value >= level), None)
