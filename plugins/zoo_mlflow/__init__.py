"""Parameters, curves and results of every run in MLflow.

On where MLflow is installed (extra `zoo[mlflow]`) and `MLFLOW_TRACKING_URI` says where runs are to go. The package
alone is not enough: without an address MLflow would begin a database in whatever folder the user stands in. The
experiment is that of `MLFLOW_EXPERIMENT_ID` or `MLFLOW_EXPERIMENT_NAME`, else `zoo`. These variables are MLflow's own,
as are those for passwords and timeouts, and `mlflow.set_tracking_uri` in a script sets the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from zoo.hookspecs import hookimpl


@hookimpl
def zoo_run_event(run: Path, event: str, values: Mapping[str, float]) -> None:
    """Adds the point of an evaluation to each curve, and the numbers of the result as `result/<name>`."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    package = find_spec("mlflow")
    # Without an origin it is a mere folder of that name in the working directory.
    if package is None or package.origin is None:
        return
    from zoo_mlflow import _log

    _log.write(run, event, values)
