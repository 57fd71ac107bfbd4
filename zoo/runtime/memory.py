"""How much memory this process has."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Literal

_STATUS = Path("/proc/self/status")


def process_memory(which: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int | None:
    """Bytes that are resident, now (`VmRSS`) or at most so far (`VmHWM`). None where the system does not tell."""
    if not _STATUS.is_file():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


def return_free_memory() -> None:
    """Gives back what the C library keeps of freed memory, where it can (glibc): else it would count as resident."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, TypeError):  # another C library; Windows takes no None
        return
