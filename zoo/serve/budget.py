"""A bound on the memory of a process: a model that would go over it is refused before it replaces anything."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import ModelError, UsageError
from zoo.runtime.memory import process_memory, return_free_memory

_WHAT_TO_DO = "unload another model first, or give a larger --memory-budget"


class MemoryBudget:
    """So many bytes may be resident. A new version needs room beside the one it replaces, which goes on meanwhile."""

    def __init__(self, limit: int) -> None:
        """Raises UsageError where the system does not tell how many are."""
        if process_memory() is None:
            raise UsageError(
                "--memory-budget: this system has no /proc to read the memory of a process from; leave it out"
            )
        self._limit = limit

    def check_file(self, path: Path) -> None:
        """Before it is loaded: raises ModelError for a file whose bytes alone would be too many."""
        resident, size = _resident(), path.stat().st_size if path.is_file() else 0
        if resident + size > self._limit:
            raise ModelError(
                f"over the memory budget of {_mb(self._limit)}: {path} has {_mb(size)}, and {_mb(resident)} are taken; "
                f"{_WHAT_TO_DO}"
            )

    def excess(self, path: Path) -> str | None:
        """Once it is loaded and warm: why there is too little room for it, None where there is enough."""
        resident = _resident()
        if resident <= self._limit:
            return None
        return f"over the memory budget of {_mb(self._limit)}: with {path} it would be {_mb(resident)}; {_WHAT_TO_DO}"


def _resident() -> int:
    return_free_memory()
    resident = process_memory()
    assert resident is not None
    return resident


def _mb(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
