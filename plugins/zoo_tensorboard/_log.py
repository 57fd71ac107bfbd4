"""The side that imports TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from zoo.artifacts.runs import RunFolder


class _Log:
    """An event file of `run` with all evaluations so far; it takes the place of all that were written before.

    Each process writes a file of its own, from the first evaluation on: a resumed run does some evaluations again, and
    a file that a crash cut off, or that began late, is made good.
    """

    def __init__(self, run: Path) -> None:
        # TensorBoard then forgets what earlier files say of step 0 and later.
        self._writer = SummaryWriter(run / "tensorboard", purge_step=0)
        self.step = -1
        for row in RunFolder.open(run).read_metrics():
            self.add(row)

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds the points of an evaluation, if it is later than those here."""
        if values["step"] > self.step:
            self.step = int(values["step"])
            self._write({name: value for name, value in values.items() if name != "step"}, self.step)

    def finish(self, result: Mapping[str, float]) -> None:
        """Adds the numbers of the result, and closes the file."""
        self._write({f"result/{name}": value for name, value in result.items()}, int(result["steps"]))
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what a checkpoint may follow must survive a kill


_logs: dict[Path, _Log] = {}


def write(run: Path, event: str, values: Mapping[str, float]) -> None:
    """Writes what `event` tells of `run`; after an error the next event begins a new file."""
    log = _logs.pop(run, None)
    if log is not None and event == "evaluation" and values["step"] <= log.step:
        # The run went back to a checkpoint, or began anew, within this process.
        log.close()
        log = None
    if log is None:
        log = _Log(run)
    if event == "done":
        log.finish(values)
        return
    log.add(values)
    _logs[run] = log
