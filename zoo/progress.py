"""How long work tells its watcher where it stands; the command line draws it, the library never prints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Reports `steps` more done; `note` is a short live remark such as `loss 0.21`."""


class Progress(Protocol):
    """Where tasks are announced."""

    def task(self, description: str, total: float) -> AbstractContextManager[Task]:
        """Announces work of `total` steps for the length of a `with` block."""

    def say(self, message: str) -> None:
        """Tells a fact worth a line, such as a skipped file."""


class _SilentTask:
    def advance(self, steps: float = 1, note: str | None = None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Named:
    """Progress of a part of something larger, which says which part it is; without `remarks` these are left out."""

    whole: Progress
    name: str
    remarks: bool = True

    def task(self, description: str, total: float) -> AbstractContextManager[Task]:
        """A task of this part."""
        return self.whole.task(f"{self.name}: {description}", total)

    def say(self, message: str) -> None:
        """A remark about this part."""
        if self.remarks:
            self.whole.say(f"{self.name}: {message}")


class Silent:
    """Progress that nobody watches."""

    def task(self, description: str, total: float) -> AbstractContextManager[Task]:  # noqa: ARG002
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass
