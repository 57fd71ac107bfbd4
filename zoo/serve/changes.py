"""Models loaded and unloaded in several processes: what a client asks of one of them, all do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What each process is to do."""

    action: Literal["load", "unload"]
    name: str
    token: str
    """Tells it from others of the same kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a change in one process, or in all."""

    change: Change
    error: str | None
    unloaded: frozenset[str]
    """Names of the models that are out after it."""


@dataclass(slots=True, kw_only=True)
class _Open:
    asker: Connection
    missing: list[Connection]
    outcomes: list[Outcome] = field(default_factory=list)


class Changes:
    """Changes under way, as the process that started the others sees them. Each process is known by its line."""

    def __init__(self) -> None:
        self.unloaded: frozenset[str] = frozenset()
        """Names of models that a process which starts now must leave out."""
        self._open: dict[Change, _Open] = {}

    def begin(self, change: Change, asker: Connection, lines: Sequence[Connection]) -> None:
        """Tells all processes, the one that asks among them."""
        self._open[change] = _Open(asker=asker, missing=list(lines))
        for line in lines:
            _send(line, change)

    def heard(self, outcome: Outcome, line: Connection) -> None:
        """Takes in what one of them says; with the last one, the one that asked is told."""
        self.unloaded = outcome.unloaded
        under_way = self._open.get(outcome.change)
        if under_way is not None and line in under_way.missing:
            under_way.outcomes.append(outcome)
            self._without(line, outcome.change)

    def gone(self, line: Connection) -> None:
        """Waits no longer for a process that has ended."""
        for change in list(self._open):
            self._without(line, change)

    def _without(self, line: Connection, change: Change) -> None:
        under_way = self._open[change]
        under_way.missing = [other for other in under_way.missing if other is not line]
        if under_way.missing:
            return
        del self._open[change]
        errors = [outcome.error for outcome in under_way.outcomes if outcome.error is not None]
        told = max(errors, default=None)
        if told is not None and len(errors) < len(under_way.outcomes):
            told = f"{told} (in {len(errors)} of {len(under_way.outcomes)} processes)"
        _send(under_way.asker, Outcome(change=change, error=told, unloaded=self.unloaded))


def _send(line: Connection, message: Change | Outcome) -> None:
    with suppress(OSError):  # a process that has ended, which is seen elsewhere
        line.send(message)
