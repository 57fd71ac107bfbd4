"""What an audit found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "remark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about some files."""

    kind: str
    severity: Severity
    """An error: training should not go on. A warning: somebody should look. A remark: good to know."""
    files: Sequence[str]
    """Relative to the data set's root; those of a finding about duplicates belong together."""
    message: str

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)
