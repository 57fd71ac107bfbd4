"""The pictures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from zoo.metrics import ReliabilityBin, wilson_interval
from zoo.report.held_out import HeldOut
from zoo.report.svg import Axis, Plot, add, drawing, markup
from zoo.report.transfer import Transfer
from zoo.report.words import percent

Points = list[tuple[float, float]]

_MATRIX = 420
"""Side of a confusion matrix."""
_LABELLED = 30
"""With more classes than this, names beside the matrix would not be readable."""
_NUMBERED = 16
"""With more than this, nor would numbers in it."""
_NAME = 14


def accuracy_curves(rows: Sequence[Mapping[str, Any]], best_step: int) -> Markup | None:
    """Accuracy against optimiser steps, from metrics.jsonl; None where none was measured."""
    curves = {
        "validation": (_points(rows, "val_accuracy"), "one"),
        "test": (_points(rows, "test_accuracy"), "two"),
    }
    return _curves("Accuracy while training", Axis.share("accuracy"), curves, best_step)


def loss_curves(rows: Sequence[Mapping[str, Any]], best_step: int) -> Markup | None:
    """Loss against optimiser steps, from metrics.jsonl; None where none was measured."""
    curves = {
        "validation": (_points(rows, "val_loss"), "one"),
        "training": (_points(rows, "train_loss"), "three"),
    }
    highest = max((value for points, _ in curves.values() for _, value in points), default=0.0)
    return _curves("Loss while training", Axis.up_to("loss", max(highest, 0.1) * 1.05), curves, best_step)


def transfer_curves(transfer: Transfer) -> Markup:
    """Both learning curves; a probe's is a level line."""
    last = max(*transfer.transfer.steps, *transfer.scratch.steps, 1)
    plot = Plot(
        "Transfer against scratch",
        f"Accuracy on {transfer.split} images against optimiser steps. Transfer goes from "
        f"{percent(transfer.transfer.start)} to {percent(transfer.transfer.asymptote)}, scratch from "
        f"{percent(transfer.scratch.start)} to {percent(transfer.scratch.asymptote)}.",
        x=Axis.up_to("optimiser steps", last),
        y=Axis.share(f"{transfer.split} accuracy"),
    )
    for label, curve, style in (("transfer", transfer.transfer, "one"), ("scratch", transfer.scratch, "two")):
        points: Points = list(zip(curve.steps, curve.accuracy, strict=True))
        plot.line(points if len(points) > 1 else [(0, points[0][1]), (last, points[0][1])], style, marks=True)
        plot.legend(label, style)
    return plot.markup()


def gate_walk(steps: Sequence[Mapping[str, Any]], alone: float) -> Markup:
    """Accuracy of a gated cascade against its work, from the strictest threshold to the chosen one."""
    chosen = steps[-1]
    plot = Plot(
        "Accuracy against work",
        f"The chosen threshold gives {percent(chosen['accuracy'])} on the images that choose, for "
        f"{percent(chosen['work'])} of the work of the last member, which alone gives {percent(alone)}.",
        x=Axis.up_to("work, beside the last member alone", max(1.0, *(step["work"] for step in steps))),
        y=Axis.share("accuracy"),
    )
    plot.line([(step["work"], step["accuracy"]) for step in steps], "one", marks=True)
    plot.line([(0, alone), (1, alone)], "ideal")
    for label, style in (("cascade", "one"), ("last member alone", "ideal")):
        plot.legend(label, style)
    return plot.markup()


def trade_off(rows: Sequence[Mapping[str, Any]], frontier: Sequence[int], y: str, *, hints: Sequence[str]) -> Markup:
    """Latency of measured rows against `y`, their `accuracy` or `images_per_s`; `frontier` are the best of them.

    `hints` say what each row is.
    """
    if y == "accuracy":
        lowest = min(row[y] for row in rows)
        axis = Axis.share("accuracy", min(math.floor(lowest * 10) / 10, 0.9))
    else:
        axis = Axis.up_to("images/s", 1.1 * max(row[y] for row in rows))
    plot = Plot(
        f"Latency against {axis.label}",
        f"The numbers are those of the table; none is better in both than {', '.join(str(n + 1) for n in frontier)}.",
        x=Axis.up_to("ms for a call (median)", 1.1 * max(row["p50_ms"] for row in rows)),
        y=axis,
    )
    plot.line(sorted((rows[number]["p50_ms"], rows[number][y]) for number in frontier), "ideal")
    for number, row in enumerate(rows):
        style = "one" if number in frontier else "three"
        hint = f"{hints[number]}: {row['p50_ms']:.3g} ms"
        plot.point(row["p50_ms"], row[y], style, label=str(number + 1), hint=hint)
    plot.legend("none is better in both", "ideal")
    return plot.markup()


def reliability_diagram(bins: Sequence[ReliabilityBin], ece: float) -> Markup:
    """How often the model was right against how sure it was (Guo et al. 2017, figure 1), with 95 % intervals."""
    plot = Plot(
        "Reliability diagram",
        f"Share of right answers in 15 bins of confidence; expected calibration error {ece:.3f}. "
        "Bars above the diagonal are too modest, bars below it too sure.",
        x=Axis.share("confidence"),
        y=Axis.share("share of right answers"),
    )
    for row in bins:
        hint = f"{row.n} images, mean confidence {percent(row.confidence)}: {percent(row.accuracy)} right"
        plot.bar(row.low, row.high, row.accuracy, "bar", hint)
        middle = (row.low + row.high) / 2
        plot.line([(middle, bound) for bound in wilson_interval(row.right, row.n)], "whisker")
    plot.line([(0, 0), (1, 1)], "ideal")
    for label, style in (("perfectly calibrated", "ideal"), ("95 % interval", "whisker")):
        plot.legend(label, style)
    return plot.markup()


def confidence_counts(bins: Sequence[ReliabilityBin]) -> Markup:
    """How many images fall into each bin of the reliability diagram."""
    most = max(row.n for row in bins)
    plot = Plot(
        "Images in each bin",
        "; ".join(f"{percent(row.low)} to {percent(row.high)}: {row.n}" for row in bins),
        x=Axis.share("confidence"),
        y=Axis(label="images", low=0, high=most, ticks=(0, most)),
        height=150,
    )
    for row in bins:
        plot.bar(row.low, row.high, row.n, "bar", f"{row.n} images")
        plot.text((row.low + row.high) / 2, row.n, str(row.n))
    return plot.markup()


def confusion_heat_map(held_out: HeldOut) -> Markup:
    """What each class (row) was called (column), shaded by share of the row; words where there is room for them."""
    names, counts = held_out.classes, held_out.confusion
    of = counts.sum(1)
    longest = min(_NAME, max(map(len, names)))
    space = 34 + 5.5 * longest if len(names) <= _LABELLED else 20
    cell = min(54, (_MATRIX - space) / len(names))
    side = space + cell * len(names)
    svg = drawing(
        "Confusion matrix",
        "Rows are true classes, columns what they were called. The most confused pairs are in the table beside it.",
        side + 2,
        side + 2,
    )
    add(svg, "rect", x=space, y=space, width=side - space, height=side - space, class_="frame")
    for row, column in zip(*counts.nonzero(), strict=True):
        count, share = int(counts[row, column]), float(counts[row, column] / of[row])
        x, y = space + float(column) * cell, space + float(row) * cell
        add(
            svg,
            "rect",
            hint=f"{names[row]} called {names[column]}: {count} of {of[row]} ({percent(share)})",
            x=x,
            y=y,
            width=cell,
            height=cell,
            fill_opacity=0.08 + 0.92 * share,
            class_="right" if row == column else "wrong",
        )
        if len(names) <= _NUMBERED:
            style = "count strong" if share > 0.5 else "count"
            add(svg, "text", str(count), x=x + cell / 2, y=y + cell / 2 + 4, text_anchor="middle", class_=style)
    add(svg, "text", "called", x=(space + side) / 2, y=12, text_anchor="middle", class_="label")
    turned = f"translate(12 {(space + side) / 2:g}) rotate(-90)"
    add(svg, "text", "true class", transform=turned, text_anchor="middle", class_="label")
    if len(names) <= _LABELLED:
        size = f"font-size: {min(11.5, cell)}px"
        for number, name in enumerate(names):
            place, short = space + (number + 0.5) * cell, name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
            add(svg, "text", short, hint=name, x=space - 5, y=place + 4, text_anchor="end", style=size)
            turned = f"translate({place + 4:g} {space - 5:g}) rotate(-60)"
            add(svg, "text", short, hint=name, transform=turned, style=size)
    return markup(svg)


def _curves(name: str, y: Axis, curves: Mapping[str, tuple[Points, str]], best_step: int) -> Markup | None:
    measured = {label: curve for label, curve in curves.items() if curve[0]}
    if not measured:
        return None
    ends = (f"{label} {y.text(points[0][1])} to {y.text(points[-1][1])}" for label, (points, _) in measured.items())
    last = max(points[-1][0] for points, _ in measured.values())
    plot = Plot(name, f"{'; '.join(ends)}.", x=Axis.up_to("optimiser steps", max(last, 1)), y=y)
    plot.line([(best_step, y.low), (best_step, y.high)], "best")
    for label, (points, style) in measured.items():
        plot.line(points, style, marks=True)
        plot.legend(label, style)
    plot.legend("weights kept", "best")
    return plot.markup()


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]
