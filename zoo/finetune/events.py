"""Telling plugins what happens in a run. A tracker that fails is a warning in the log, never the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.plugins import Plugin

_log = logging.getLogger(__name__)


def tell_plugins(plugins: Sequence[Plugin], run: Path, event: str, values: Mapping[str, Any]) -> None:
    """Calls `zoo_run_event` of every admitted plugin, one at a time, with the numbers in `values`."""
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    for plugin in plugins:
        if plugin.status != "ok":
            continue
        try:
            plugin.hooks.zoo_run_event(run=run, event=event, values=numbers)
        except Exception as error:
            _log.warning("plugin %s failed at event %s: %s: %s", plugin.name, event, type(error).__name__, error)
            _log.debug("traceback", exc_info=True)
