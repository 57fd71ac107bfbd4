"""Curves of every run in TensorBoard, under `RUN/tensorboard`.

On where the package `tensorboard` is installed (extra `zoo[tensorboard]`): a log of a few kilobytes inside the run's
own folder disturbs nobody who has it for other reasons. Elsewhere nothing happens, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from zoo.hookspecs import hookimpl


@hookimpl
def zoo_run_event(run: Path, event: str, values: Mapping[str, float]) -> None:
    """Adds the point of an evaluation to each curve, and the numbers of the result as `result/<name>`."""
    package = find_spec("tensorboard")
    # Without an origin it is a mere folder of that name in the working directory, such as a run has.
    if package is None or package.origin is None:
        return
    from zoo_tensorboard import _log

    _log.write(run, event, values)
