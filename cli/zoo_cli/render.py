"""The only printer: results on stdout (words or JSON), progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from zoo.progress import Silent, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_QUIET_SECONDS = 1.0
"""Work shorter than this shows no progress."""
_LINE_SECONDS = 10.0
"""Where stderr is no terminal, a line this often instead of a bar."""


class Output:
    """How one command speaks."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, value: Any, words: Callable[[], None]) -> None:
        """The command's result: `value` as JSON with --json, else whatever `words` prints."""
        if self.as_json:
            # In ASCII, which every encoding of stdout has, and which any reader of JSON undoes.
            sys.stdout.write(json.dumps(value, indent=2) + "\n")
        else:
            words()

    def line(self, text: str = "") -> None:
        """One line of a result, on stdout."""
        sys.stdout.write(text + "\n")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table, on stdout. Numbers are set to the right."""
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for number, header in enumerate(headers):
            numeric = bool(rows) and all(isinstance(row[number], int | float | None) for row in rows)
            table.add_column(header, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        console(stderr=False).print(table)

    def remark(self, text: str) -> None:
        """A remark on stderr, unless --quiet."""
        if not self.quiet:
            sys.stderr.write(text + "\n")

    @property
    def progress(self) -> Silent | Progress:
        """Where the library reports what it is doing."""
        return Silent() if self.quiet else Progress()


class Progress:
    """Progress bars with the time left, or lines where stderr is no terminal."""

    def task(self, description: str, total: float) -> AbstractContextManager[Task]:
        """A bar (or lines) for the length of the work."""
        return _bar(description, total) if sys.stderr.isatty() else _lines(description, total)

    def say(self, message: str) -> None:
        """A line on stderr."""
        sys.stderr.write(message + "\n")


@contextmanager
def _bar(description: str, total: float) -> Iterator[Task]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total, note="", visible=False)
        yield _BarTask(bars, task)


class _BarTask:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task, self._began = bars, task, time.monotonic()

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        visible = time.monotonic() - self._began > _QUIET_SECONDS
        fields = {} if note is None else {"note": note}
        self._bars.update(self._task, advance=steps, visible=visible, **fields)  # type: ignore[arg-type]


@contextmanager
def _lines(description: str, total: float) -> Iterator[Task]:
    yield _LineTask(description, total)


class _LineTask:
    def __init__(self, description: str, total: float) -> None:
        self._description, self._total, self._done = description, total, 0.0
        self._last = time.monotonic()
        # When the first report came, and how much was done by then: in a resumed run, by earlier sittings.
        self._first: tuple[float, float] | None = None

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        self._done += steps
        now = time.monotonic()
        if self._first is None:
            self._first = now, self._done
        if now - self._last < _LINE_SECONDS:
            return
        self._last = now
        began, before = self._first
        words = [f"{self._description}: {self._done:.0f}/{self._total:.0f}"]
        if self._done > before:
            words.append(f"{(now - began) * (self._total - self._done) / (self._done - before):.0f} s left")
        sys.stderr.write(", ".join([*words, note] if note else words) + "\n")


def console(*, stderr: bool) -> Console:
    """A rich console; never narrower than a table of facts needs where the output is no terminal.

    Names of files and classes are shown as they are: `[...]` and `:...:` in them mean nothing.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f} %"


def count(value: float) -> str:
    """A large number with a unit: 11.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
