"""What may differ from model to model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from zoo.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How a model is called, and what it may take."""

    threads: int | None = None
    """Of its session, in each process."""
    max_batch: int = 32
    """Rows of requests that may be computed together, where that is measured to help."""
    max_queue: int = 256
    """Rows that may wait."""
    max_delay: float = 0.0
    """Seconds that a request may wait for others to share its call."""
    required: bool = True
    """Whether the server is only ready with it."""

    def with_table(self, table: object, name: str) -> ModelSettings:
        """These settings, but for what a table of a TOML file says, such as `max-batch = 8`.

        Raises UsageError for what is no setting, and for values that are none.
        """
        if not isinstance(table, Mapping):
            raise UsageError(f"[model.{name}]: {table!r:.40}; give a table such as [model.{name}] max-batch = 8")
        known = [field.name.replace("_", "-") for field in fields(self)]
        for key, value in table.items():
            if key not in known:
                hint = did_you_mean(key, known) or f"one of {', '.join(known)}"
                raise UsageError(f"[model.{name}] has an unknown setting: {key!r:.40}; {hint}")
            if not _fits(key, value):
                raise UsageError(f"[model.{name}] {key} = {value!r:.40}; {_MUST_BE[key]}")
        return replace(self, **{key.replace("-", "_"): value for key, value in table.items()})


_COUNT = "give a whole number from 1"
_MUST_BE = {
    "threads": _COUNT,
    "max-batch": _COUNT,
    "max-queue": _COUNT,
    "max-delay": "give seconds, such as 0.002",
    "required": "give true or false",
}


def _fits(key: str, value: Any) -> bool:
    if _MUST_BE[key] == _COUNT:
        return type(value) is int and value >= 1
    return isinstance(value, bool) if key == "required" else type(value) in (int, float) and value >= 0
