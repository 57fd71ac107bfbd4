"""Transfer against scratch: a run beside its twin that began from random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.artifacts.runs import RunFolder
from zoo.finetune.curves import LearningCurve

_LEVEL = 0.9
_SPLITS = {"val_accuracy": "validation", "test_accuracy": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Two learning curves on the same images; a probe, which takes no steps, is a curve of one point."""

    split: str
    transfer: LearningCurve
    scratch: LearningCurve
    test_accuracy: Mapping[str, float | None]
    """Of the finished models, `transfer` and `scratch`."""

    @property
    def level(self) -> float:
        """Nine tenths of where scratch ends up: how soon is transfer there?"""
        return _LEVEL * self.scratch.asymptote

    def to_json(self) -> dict[str, Any]:
        """Start, slope and asymptote of both, and how good the finished models are."""
        curves = {"transfer": self.transfer, "scratch": self.scratch}
        return {
            "split": self.split,
            "level": self.level,
            **{
                name: {
                    "start": curve.start,
                    "steps_to_level": curve.steps_to(self.level),
                    "asymptote": curve.asymptote,
                    "test_accuracy": self.test_accuracy[name],
                }
                for name, curve in curves.items()
            },
        }


def read_transfer(run: RunFolder) -> Transfer | None:
    """The run beside the complete run in its folder `scratch`; None where there is none, or no curve of both."""
    twin = RunFolder(run.scratch)
    if not twin.is_complete:
        return None
    runs = {"transfer": run, "scratch": twin}
    test_accuracy = {name: way.read("result")["test_accuracy"] for name, way in runs.items()}
    for key, split in _SPLITS.items():
        transfer, scratch = _curve(run, key), _curve(twin, key)
        if transfer is not None and scratch is not None:
            return Transfer(split=split, transfer=transfer, scratch=scratch, test_accuracy=test_accuracy)
    return None


def _curve(run: RunFolder, key: str) -> LearningCurve | None:
    rows: list[Mapping[str, Any]] = list(run.read_metrics())
    if not rows:
        result = run.read("result")
        rows = [{"step": 0, key: result[key]}] if result[key] is not None else []
    curve = LearningCurve.from_metrics(rows, key)
    return curve if curve.steps else None
