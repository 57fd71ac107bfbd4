"""What a check of the contract gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a spec lies: `what` names the check, `message` the line of the spec and the true value."""

    what: str
    message: str
