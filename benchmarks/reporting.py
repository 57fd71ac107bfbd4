"""What every benchmark prints: a Markdown table, and with --out the same rows as JSON with the versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.runtime.threads import available_threads

_PACKAGES = ("torch", "torchvision", "onnxruntime-gpu", "numpy")


def report(rows: Sequence[dict[str, Any]], out: Path | None) -> None:
    """Prints the rows and writes them to `out`."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"| {' | '.join(names)} |")
    print(f"|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(_cell(row.get(name)) for name in names)} |")
    facts = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "processors": available_threads(),
        **{name: version(name) for name in _PACKAGES},
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if out is not None:
        out.write_text(json.dumps({**facts, "rows": list(rows)}, indent=2) + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
