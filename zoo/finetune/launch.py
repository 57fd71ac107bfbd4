"""Several processes that work on one run: started together, watched, and ended together whatever becomes of one."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from lightning_fabric import Fabric

from zoo.artifacts.runs import RunFolder
from zoo.errors import RunError
from zoo.finetune.interrupt import Interrupt, catch_interrupt
from zoo.finetune.loop import InterruptedTrainingError
from zoo.nn.team import Seat, leave

_LOOK_SECONDS = 0.1


class SharedRun(RunFolder):
    """A run folder as one of several processes sees it: the first one alone writes, and its decisions hold for all."""

    def __init__(self, path: Path, fabric: Fabric) -> None:
        super().__init__(path)
        self._fabric = fabric

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """See `RunFolder`."""
        if self._fabric.is_global_zero:
            super().write(name, value)

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """See `RunFolder`."""
        if self._fabric.is_global_zero:
            super().append_metrics(values)

    def truncate_metrics(self, step: int) -> None:
        """See `RunFolder`."""
        if self._fabric.is_global_zero:
            super().truncate_metrics(step)

    def decide(self, name: str, make: Callable[[], Any]) -> Any:
        """See `RunFolder`; where something is to be decided, all call `make`, which may be their common work."""
        made = self._fabric.broadcast(self.read_decisions())
        if name in made:
            return made[name]
        value = self._fabric.broadcast(make())
        if self._fabric.is_global_zero:
            super().decide(name, lambda: value)
        return value


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Calls `work(seat, *arguments)` in `count` processes at once, and comes back when all are done.

    Raises what the first one to fail raised, RunError where it died without a word, and has then killed the others,
    which may be waiting for it. A first Ctrl-C or SIGTERM reaches the first process, a second one ends them all.
    `work` and `arguments` are pickled: functions of modules, plain values.

    Lightning's launchers either run the command line again, which a library function does not own, or give no word of
    the error. Here the caller takes no part in the work and only watches, so that it never hangs, whoever does.
    """
    context = get_context("spawn")
    members: list[_Member] = []
    with catch_interrupt() as interrupt, TemporaryDirectory() as folder:
        try:
            for rank in range(count):
                ending, theirs = context.Pipe(duplex=False)
                seat = Seat(rank=rank, world=count, meeting=Path(folder) / "meeting")
                process = context.Process(target=_member, args=(seat, theirs, work, arguments))
                process.start()
                theirs.close()
                members.append(_Member(process, ending))
            died = _watch(members, interrupt)
        finally:
            for member in members:
                member.process.kill()
                member.process.join()
    if interrupt.requested and members[0].process.exitcode == -signal.SIGTERM:
        raise KeyboardInterrupt  # before there was anything to save
    reports = [member.report() for member in members]
    for rank in died:
        if reports[rank] is None:
            code = members[rank].process.exitcode or 0
            how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
            raise RunError(f"process {rank + 1} of {count} {how}; see that memory suffices, then --resume")
    if any(reports):
        _, error = min(filter(None, reports), key=itemgetter(0))  # the others only noticed
        raise error


@dataclass(frozen=True, slots=True)
class _Member:
    process: BaseProcess
    ending: Connection
    """Tells when it stopped, and for what, where it did not get to the end of its work."""

    def report(self) -> tuple[float, BaseException] | None:
        try:
            return cast("tuple[float, BaseException]", self.ending.recv())
        except EOFError:
            return None


def _watch(members: Sequence[_Member], interrupt: Interrupt) -> list[int]:
    """Waits until all members have ended or one has failed, which is told by its rank; passes on an interrupt once."""
    told = False
    while running := [member.process for member in members if member.process.exitcode is None]:
        wait([process.sentinel for process in running], _LOOK_SECONDS)
        if any(member.process.exitcode for member in members):
            break
        if interrupt.requested and not told:
            members[0].process.terminate()
            told = True
    return [rank for rank, member in enumerate(members) if member.process.exitcode]


def _member(seat: Seat, ending: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """One process from its beginning to its end."""
    threading.Thread(target=_end_with_caller, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody, and the caller passes it on
    if seat.rank:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    try:
        try:
            work(seat, *arguments)
        except InterruptedTrainingError as error:
            _report(ending, error)
        leave()
    except BaseException as error:
        error.add_note(f"process {seat.rank + 1} of {seat.world}: {traceback.format_exc()}")
        _report(ending, error)
        os._exit(1)  # at once: an orderly end would wait for the others


def _report(ending: Connection, error: BaseException) -> None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    ending.send((time.monotonic(), error))


def _end_with_caller() -> None:
    caller = parent_process()
    assert caller is not None
    caller.join()
    os._exit(1)
