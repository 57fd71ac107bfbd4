"""Mixed traffic for a while: nothing fails that should not, and no memory is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

_BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_memory_stays_as_it_is_under_mixed_traffic(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    # Of large images an allocator takes minutes to know the largest; with small ones it is over in seconds.
    words = [str(model), "--largest", "200", "--seconds", "45", "--every", "1", "--out", str(out)]
    subprocess.run([sys.executable, str(_BENCHMARK), *words], check=True, timeout=120)
    rows = json.loads(out.read_text())["rows"]
    last = rows[-1]
    assert last["2xx"] > 200
    assert last["4xx"] > 100
    assert last["left"] > 300
    assert last["file replaced"] >= 5
    assert not {"5xx", "broken", "gRPC internal", "gRPC unavailable"} & last.keys()
    memory = [row["memory, MiB"] for row in rows]
    assert median(memory[-10:]) < 1.2 * median(memory[15:25])
