"""What to know before trusting measured times."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from zoo.runtime.threads import available_threads

_BUSY = 0.5
_SPREAD = 0.15


def busy_machine(load: float, threads: int) -> list[str]:
    """A warning where others were at work: `load` is the number of running processes before measuring began."""
    processors = os.cpu_count() or 1
    if load + min(threads, processors) <= processors + _BUSY:
        return []
    return [
        f"machine was busy before measuring: load {load:.1f} on {processors} processors, {threads} threads asked for; "
        "times are longer than on a machine at rest"
    ]


def too_many_threads(counts: Sequence[int]) -> list[str]:
    """A warning where more threads are asked for than this process may use."""
    allowed = available_threads()
    if max(counts) <= allowed:
        return []
    return [f"more threads than this process may use: {max(counts)} of {allowed}; they wait for each other"]


def unsteady(what: str, spread: float) -> list[str]:
    """A warning where the rounds of a measurement lie apart."""
    if spread <= _SPREAD:
        return []
    return [f"times vary: the middle half of the rounds lie {100 * spread:.0f} % apart for {what}; repeat when quiet"]


def strayed_nodes(what: str, provider: str, nodes: Mapping[str, int]) -> list[str]:
    """A warning where nodes ran on another execution provider than was asked for."""
    elsewhere = {name: count for name, count in nodes.items() if name != provider}
    if not elsewhere:
        return []
    where = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
    return [f"not all on {provider}: {where} of {sum(nodes.values())} nodes of {what}"]
