"""Measured times as a page: the table, and what is best at which speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.artifacts.files import write_bytes
from zoo.report.charts import trade_off
from zoo.report.page import GENERATOR, check_target, render


def bench_page(result: Mapping[str, Any], out: Path) -> None:
    """Writes what `zoo bench` measured to one self-contained page. Raises UsageError where `out` is not a page's.

    Its plot shows latency against accuracy where that was measured, of the smallest batch, and else against
    throughput.
    """
    check_target(out, GENERATOR, "report")
    rows = sorted(result["rows"], key=lambda row: row["batch"])
    with_accuracy = rows[0]["accuracy"] is not None
    y = "accuracy" if with_accuracy else "images_per_s"
    shown = [row for row in rows if not with_accuracy or row["batch"] == rows[0]["batch"]]
    best = frontier(shown, y)
    hints = [f"{row['model']}, {row['provider']}, batch {row['batch']}" for row in shown]
    facts = {
        "rows": rows,
        "warnings": result["warnings"],
        "with_accuracy": with_accuracy,
        "frontier": best,
        "chart": trade_off(shown, best, y, hints=hints),
    }
    write_bytes(out, render("bench.html", facts).encode())


def frontier(rows: Sequence[Mapping[str, Any]], y: str) -> list[int]:
    """Numbers of the rows that no other one beats in latency and in `y` (the Pareto frontier)."""
    return [
        number
        for number, row in enumerate(rows)
        if not any(
            other["p50_ms"] <= row["p50_ms"]
            and other[y] >= row[y]
            and (other["p50_ms"], other[y]) != (row["p50_ms"], row[y])
            for other in rows
        )
    ]
