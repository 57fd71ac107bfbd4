"""On which processors this process runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from zoo.errors import DeviceError, UsageError

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def read_cpus(text: str, option: str) -> tuple[int, ...]:
    """The numbers in a list such as `0-3,8`, as the kernel writes them. Raises UsageError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"{option}: {text!r}; give numbers of processors such as 0-3,8")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def share_cpus(cpus: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """What each of so many processes gets: neighbours, which share caches and memory.

    Raises UsageError where there are fewer processors than processes.
    """
    if count > len(cpus):
        raise UsageError(
            f"more processes than processors: {count} for {len(cpus)}; give fewer --workers, or more --cpus"
        )
    bounds = [len(cpus) * number // count for number in range(count + 1)]
    return [tuple(cpus[start:end]) for start, end in pairwise(bounds)]


def pin_to(cpus: Sequence[int]) -> None:
    """Keeps this process, and the threads and processes it starts from now on, on these processors.

    Raises UsageError where the system cannot, DeviceError for processors it must not use.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("--cpus: this system does not let a process choose its processors; leave it out")
    allowed = os.sched_getaffinity(0)
    others = sorted(set(cpus) - allowed)
    if others:
        raise DeviceError(
            f"processors not there: {_listed(others)}; give some of those it may use, {_listed(sorted(allowed))}"
        )
    # Libraries may have started threads when they were imported.
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(task.name), cpus)


def _listed(cpus: Sequence[int]) -> str:
    return ",".join(map(str, cpus))
