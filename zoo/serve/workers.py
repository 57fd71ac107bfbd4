"""Several processes behind one port: each has its own session, and all take connections from the same socket.

Python computes in one thread at a time; on a machine with many processors one process is not enough for small models,
and several sessions of one thread answer more requests than one session of many. A process that dies is replaced, while
the others go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic, sleep

from zoo.errors import ZooError
from zoo.progress import Progress, Silent
from zoo.runtime.cpus import pin_to, share_cpus
from zoo.serve.changes import Change, Changes, Outcome
from zoo.serve.request import ServeRequest
from zoo.serve.run import Ready, serve_on
from zoo.serve.siblings import Remark, Remarks, Siblings, by_version
from zoo.serving.metrics import ModelMetrics

_POLL_SECONDS = 0.2
_RESTART_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: SpawnProcess
    line: Connection
    started: float
    counted: list[ModelMetrics] = field(default_factory=list)


class Supervisor:
    """Keeps so many processes serving, and passes on what each has counted to the others."""

    def __init__(self, listener: socket.socket, request: ServeRequest, progress: Progress | None) -> None:
        """`progress` is told what the processes say, once where all say the same.

        Raises UsageError where there are fewer processors than processes.
        """
        self._progress = progress or Silent()
        self._told: set[str] = set()
        self._listener = listener
        self._request = request
        self._shares = share_cpus(request.cpus, request.workers) if request.cpus else [()] * request.workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._gone: list[ModelMetrics] = []
        """Counts of processes that have ended: totals never go down."""
        self._changes = Changes()
        self._stops = 0

    def run(self, ready: Ready) -> None:
        """Serves until SIGTERM or SIGINT. `ready` is called once all processes answer.

        Raises the error of the first process that cannot begin.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._workers = [self._start(number) for number in range(self._request.workers)]
            words = [self._first_word(worker) for worker in self._workers]
            if not self._stops:
                ready(*words[0])
            while not self._stops:
                self._look()
            self._end()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self._stops += 1
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.terminate()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        request = replace(self._request, cpus=self._shares[number])
        process = self._context.Process(
            target=_work, args=(self._listener, request, theirs, self._changes.unloaded), name="zoo serve"
        )
        process.start()
        theirs.close()
        return _Worker(process=process, line=ours, started=monotonic())

    def _first_word(self, worker: _Worker) -> tuple[list[str], int | None]:
        try:
            while isinstance(said := worker.line.recv(), Remark):
                self._tell(said)
        except EOFError:
            if self._stops:
                return [], None
            raise ZooError("a process of the server ended before it answered; see its messages above") from None
        if isinstance(said, Exception):
            raise said
        names, grpc_port = said
        return names, grpc_port

    def _look(self) -> None:
        """Takes in what the processes say, and replaces those that have ended."""
        waiting: list[Connection | int] = [
            *(worker.line for worker in self._workers),
            *(worker.process.sentinel for worker in self._workers),
        ]
        wait(waiting, timeout=_POLL_SECONDS)
        for number, worker in enumerate(self._workers):
            self._listen_to(worker)
            if not worker.process.is_alive() and not self._stops:
                _log.error("a process of the server has ended (%s); it is replaced", worker.process.exitcode)
                self._gone = list(by_version([*self._gone, *worker.counted]).values())
                self._changes.gone(worker.line)
                worker.line.close()
                # One that ends at once must not be started in a busy loop.
                sleep(max(0.0, worker.started + _RESTART_SECONDS - monotonic()))
                self._workers[number] = self._start(number)

    def _listen_to(self, worker: _Worker) -> None:
        try:
            while worker.line.poll():
                said = worker.line.recv()
                if isinstance(said, Exception):
                    _log.error("a process of the server cannot begin: %s", said)
                elif isinstance(said, Remark):
                    self._tell(said)
                elif isinstance(said, Change):
                    self._changes.begin(said, worker.line, [each.line for each in self._workers])
                elif isinstance(said, Outcome):
                    self._changes.heard(said, worker.line)
                elif isinstance(said, list):
                    worker.counted = said
                    others = [each for other in self._workers if other is not worker for each in other.counted]
                    worker.line.send([*self._gone, *others])
        except (EOFError, OSError):
            return  # it has ended, which is seen elsewhere

    def _tell(self, remark: Remark) -> None:
        if remark.text not in self._told:
            self._told.add(remark.text)
            self._progress.say(remark.text)

    def _end(self) -> None:
        ending = self._request.ending
        until = monotonic() + ending.delay + ending.drain + _GRACE_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, until - monotonic()))


def _work(listener: socket.socket, request: ServeRequest, line: Connection, unloaded: frozenset[str]) -> None:
    """One process. Ctrl-C reaches all of them; only the word of the first one counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    siblings = Siblings(line, unloaded=unloaded)
    try:
        if request.cpus:
            pin_to(request.cpus)
        serve_on(listener, request, siblings.started, progress=Remarks(siblings), siblings=siblings)
    except ZooError as error:
        siblings.failed(error)
