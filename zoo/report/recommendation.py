"""A recommendation as a page: why, what is best at which speed, and all that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.artifacts.files import write_bytes
from zoo.report.bench import frontier
from zoo.report.charts import trade_off
from zoo.report.page import GENERATOR, check_target, render


def recommendation_page(found: Mapping[str, Any], out: Path) -> None:
    """Writes what `zoo recommend` found to one self-contained page. Raises UsageError where `out` is not a page's."""
    check_target(out, GENERATOR, "report")
    shown = [{"p50_ms": row["latency_ms"], "accuracy": row["score"]} for row in found["ranking"]]
    best = frontier(shown, "accuracy")
    chart = trade_off(shown, best, "accuracy", hints=[row["backbone"] for row in found["ranking"]])
    write_bytes(out, render("recommendation.html", {**found, "frontier": best, "chart": chart}).encode())
