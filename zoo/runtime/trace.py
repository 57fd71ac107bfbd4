"""What really ran where, and for how long, read from ONNX Runtime's own trace."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from zoo.runtime.session import Device, Provider, open_session
from zoo.runtime.settings import SessionSettings

_PREPROCESS = "preprocess"
"""What stands before a `/` in the names of nodes that prepare an image, first or after the member's."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What ONNX Runtime noted about calls of a model."""

    nodes: dict[str, int]
    """Nodes run per execution provider in the first call, e.g. {"CPUExecutionProvider": 71}."""
    part_ms: dict[str, float]
    """Milliseconds of a call on average, the first left out, by what stands before the first `/` of nodes' names."""
    preprocess_ms: float
    """Of these, what nodes took that prepare images, of all members together."""


def trace(
    path: Path,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    device: Device | Provider = "auto",
    settings: SessionSettings | None = None,
) -> Trace:
    """The trace of one call for each of `feeds`, after a first one that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, device=device, settings=settings, profile=Path(folder) / "trace")
        for inputs in (feeds[0], *feeds):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    warm = min(event["ts"] + event["dur"] for event in events if event["name"] == "model_run")
    nodes, parts, preprocess = Counter[str](), Counter[str](), 0
    for event in events:
        if event.get("cat") != "Node" or not event["args"].get("provider"):
            continue
        if event["ts"] < warm:
            nodes[event["args"]["provider"]] += 1
        else:
            scopes = event["name"].split("/")
            parts[scopes[0]] += event["dur"]
            preprocess += event["dur"] if _PREPROCESS in scopes[:-1][:2] else 0
    part_ms = {part: total / 1e3 / len(feeds) for part, total in parts.items()}
    return Trace(dict(nodes), part_ms, preprocess / 1e3 / len(feeds))
