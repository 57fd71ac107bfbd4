"""Which execution provider really ran each node, read from ONNX Runtime's own trace."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zoo.runtime.session import Device, open_session


def node_placement(
    path: Path, feeds: Mapping[str, NDArray[Any]], *, device: Device = "auto", threads: int | None = None
) -> dict[str, int]:
    """Nodes run per execution provider in one pass over `feeds`, e.g. {"CPUExecutionProvider": 71}."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, device=device, threads=threads, profile=Path(folder) / "trace")
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = (event.get("args", {}).get("provider") for event in events if event.get("cat") == "Node")
    return dict(Counter(provider for provider in ran if provider))
