"""How many threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may use: the smaller of CPU affinity and cgroup quota, at least 1.

    A container sees all cores of its host, but may be given the time of two; ONNX Runtime and torch size their
    pools by the host's cores and then trip over each other.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time the cgroup grants, v2 (`cpu.max`) or v1 (`cpu.cfs_*`); None for no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max", or -1 in v1: no limit
        return None
    return int(quota) / int(period)
