"""Requests to calls of a model: what waits while it computes goes into its next call together.

Unless a delay is asked for, no request waits for others to come: at low load it is computed at once, at high load
batches form by themselves. How many rows a call takes at most is measured when the model is loaded
(`zoo.serving.pace`): on a CPU a large network is slower per row in batches, a small one several times as fast.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.serving.tensors import ProtocolError

Arrays = list[NDArray[Any]]
Feeds = Mapping[str, NDArray[Any]]
Infer = Callable[[Sequence[Feeds], Sequence[str]], Arrays]
"""The named outputs for some inputs: the rows of the first, then those of the next."""

_SMOOTHING = 0.1
_INLINE_SECONDS = 0.02
"""For which short calls may hold up the event loop in a row."""
_log = logging.getLogger(__name__)


class OverloadedError(ProtocolError):
    """More is asked than can be answered in time."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, 429)
        self.retry_after = retry_after
        """Seconds after which it may be worth another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a model is called, as measured when it was loaded."""

    max_batch: int
    """Rows of a call at most."""
    row_seconds: float
    """Of each row in calls of that size."""
    inline: bool = False
    """Whether calls are so short that handing them to a thread would cost more than they hold up."""
    any_size: str | None = None
    """The input of which rows in one call may differ in shape."""


class Job:
    """The rows of one request, and who waits for the answer."""

    __slots__ = ("deadline", "feeds", "future", "key", "mark", "outputs", "queued", "rows")

    def __init__(
        self,
        feeds: Feeds,
        outputs: tuple[str, ...],
        deadline: float,
        future: asyncio.Future[Arrays],
        any_size: str | None,
        mark: object,
    ) -> None:
        self.feeds = feeds
        self.outputs = outputs
        self.deadline = deadline
        self.future = future
        self.mark = mark
        """For who is told of the call."""
        self.queued = monotonic()
        self.rows = next((len(array) for array in feeds.values() if array.ndim), 1)
        self.key: tuple[object, ...] = (
            outputs,
            *((name, array.dtype, None if name == any_size else array.shape[1:]) for name, array in feeds.items()),
        )
        """What jobs of one call have in common."""


class Batcher:
    """The queue before one model. All of it but the calls themselves runs in the event loop that made it."""

    def __init__(
        self,
        infer: Infer,
        pace: Pace,
        *,
        max_queue: int = 256,
        max_delay: float = 0.0,
        called: Callable[[Sequence[Job], float, float], None] | None = None,
        mark: Callable[[], object] | None = None,
    ) -> None:
        """`max_queue`: rows that may wait. `max_delay`: seconds that a request waits for others while its call has
        room for them. `called` is told of each call: jobs, when it began, and its seconds; `mark` gives what jobs are
        marked with for it."""
        self._infer = infer
        self._pace = pace
        self._max_queue = max_queue
        self._max_delay = max_delay
        self._delayed: asyncio.TimerHandle | None = None
        self._called = called
        self._mark = mark
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Job] = deque()
        self._rows = 0
        self._coming = 0
        """Rows that have their place in the queue, and are not there yet."""
        self._row_seconds = pace.row_seconds
        self._busy = False
        self._closed: asyncio.Future[None] | None = None
        self._batch: list[Job] = []
        self._batches: SimpleQueue[list[Job]] | None = None
        """For the thread, where there is one; an empty one ends it."""

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    @property
    def expected_seconds(self) -> float:
        """How long the rows in the queue, and those that are coming, will take."""
        return (self._rows + self._coming) * self._row_seconds

    def check(self, deadline: float) -> None:
        """Raises OverloadedError where the queue is full, or where it is so long that an answer would be later than
        `deadline` (by `time.monotonic`): refused at once, a client can try elsewhere."""
        expected = self.expected_seconds
        if self._rows + self._coming >= self._max_queue or monotonic() + expected > deadline:
            raise OverloadedError("too many requests: the queue is full; try again later", expected)

    def announce(self, rows: int, ready: asyncio.Future[Any]) -> None:
        """Keeps so many places for rows that are submitted once `ready` is done."""
        self._coming += rows

        def arrive(_: object) -> None:
            self._coming -= rows

        ready.add_done_callback(arrive)

    def submit(self, feeds: Feeds, outputs: tuple[str, ...], deadline: float) -> asyncio.Future[Arrays]:
        """The named outputs for the rows in `feeds`, once they are computed; cancel it where nobody waits any more.

        It takes what it is given: `check` it before.
        """
        mark = self._mark() if self._mark is not None else None
        job = Job(feeds, outputs, deadline, self._loop.create_future(), self._pace.any_size, mark)
        self._queue.append(job)
        self._rows += job.rows
        if not self._busy:
            self._busy = True
            # Behind what else has just arrived, which then goes into the same call.
            self._loop.call_soon(self._start)
        elif self._delayed is not None and self._rows >= self._pace.max_batch:
            self._start()
        return job.future

    def close(self) -> asyncio.Future[None]:
        """Ends the thread once the queue is empty, which is when the future is done.

        What is submitted later, by who found the model before, is still answered.
        """
        self._closed = self._loop.create_future()
        if not self._busy:
            self._end()
        elif self._delayed is not None:
            self._start()
        return self._closed

    def _start(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        elif wait := self._delay():
            self._delayed = self._loop.call_later(wait, self._start)
            return
        until = monotonic() + _INLINE_SECONDS
        while True:
            self._batch = self._take()
            if not self._batch:
                self._busy = False
                if self._closed is not None:
                    self._end()
                return
            if not self._pace.inline or sum(job.rows for job in self._batch) > self._pace.max_batch:
                if self._batches is None:
                    self._batches = SimpleQueue()
                    threading.Thread(target=self._work, args=(self._batches,), name="model", daemon=True).start()
                self._batches.put(self._batch)
                return
            self._finish(*_call(self._infer, self._batch))
            # Full calls follow each other at once. With more requests at hand than the queue takes, one call for each
            # time that all connections are read would leave the loop with little but refusals.
            if self._rows < self._pace.max_batch or monotonic() > until:
                self._loop.call_soon(self._start)
                return

    def _delay(self) -> float:
        """Seconds for which the oldest request may still wait for others."""
        if not self._max_delay or not self._queue or self._rows >= self._pace.max_batch or self._closed is not None:
            return 0.0
        return max(0.0, self._queue[0].queued + self._max_delay - monotonic())

    def _work(self, batches: SimpleQueue[list[Job]]) -> None:
        while batch := batches.get():
            outcome = _call(self._infer, batch)
            try:
                self._loop.call_soon_threadsafe(self._go_on, *outcome)
            except RuntimeError:  # the loop has ended meanwhile
                return

    def _end(self) -> None:
        if self._batches is not None:
            self._batches.put([])
            self._batches = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _go_on(self, answers: Arrays | None, error: Exception | None, began: float, seconds: float) -> None:
        self._finish(answers, error, began, seconds)
        self._start()

    def _take(self) -> list[Job]:
        """The oldest job, and those that fit into one call with it."""
        now, taken, rows, left = monotonic(), list[Job](), 0, list[Job]()
        while self._queue:
            job = self._queue.popleft()
            if job.future.done():
                self._rows -= job.rows
            elif job.deadline < now:
                self._rows -= job.rows
                job.future.set_exception(OverloadedError("no answer in time; try again later", self.expected_seconds))
            elif not taken or (job.key == taken[0].key and rows + job.rows <= self._pace.max_batch):
                taken.append(job)
                rows += job.rows
                if rows >= self._pace.max_batch:
                    break
            else:
                left.append(job)
                if len(left) >= self._pace.max_batch:
                    break
        self._queue.extendleft(reversed(left))
        self._rows -= rows
        return taken

    def _finish(self, answers: Arrays | None, error: Exception | None, began: float, seconds: float) -> None:
        batch, self._batch = self._batch, []
        rows = sum(job.rows for job in batch)
        if rows:
            self._row_seconds += _SMOOTHING * (seconds / rows - self._row_seconds)
        if error is not None and len(batch) > 1:
            # One of them may have spoilt it for all: each alone, oldest first.
            for job in reversed(batch):
                self._queue.appendleft(job)
                self._rows += job.rows
            for job in batch:
                job.key = (id(job),)
        elif error is not None:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
        else:
            assert answers is not None
            self._hand_out(batch, answers)
        if self._called is not None:
            self._called(batch, began, seconds)

    def _hand_out(self, batch: Sequence[Job], answers: Arrays) -> None:
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_result(answers)
            return
        at = 0
        for job in batch:
            if not job.future.done():
                job.future.set_result([array[at : at + job.rows] for array in answers])
            at += job.rows


def joined(feeds: Sequence[Feeds]) -> Feeds:
    """The rows of all in one tensor for each input."""
    first = feeds[0]
    return first if len(feeds) == 1 else {name: np.concatenate([each[name] for each in feeds]) for name in first}


def _call(infer: Infer, batch: Sequence[Job]) -> tuple[Arrays | None, Exception | None, float, float]:
    """What the model says, or why it says nothing, when it was called and for how many seconds."""
    began = monotonic()
    try:
        answers = infer([job.feeds for job in batch], batch[0].outputs)
    except Exception as error:
        return None, error, began, monotonic() - began
    return answers, None, began, monotonic() - began
