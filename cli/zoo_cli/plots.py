"""Pictures for people, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.finetune.curves import LearningCurve


def save_curves(path: Path, curves: Mapping[str, LearningCurve], title: str) -> None:
    """Learning curves by name, in one SVG file."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(curve.steps, [100 * value for value in curve.accuracy], marker=".", label=name)
    axes.set(xlabel="optimiser steps", ylabel="test accuracy (%)", ylim=(0, 100), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)
