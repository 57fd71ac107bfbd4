"""How ONNX Runtime works inside a session: the settings that were measured to matter.

Not among them, because on no model here did they help: less graph optimisation, nodes side by side, sessions without
memory pattern, arena or prepacking, denormal numbers taken for zero, shapes fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnxruntime as ort

from zoo.runtime.threads import available_threads

_LINGER_SECONDS = 0.1
"""After so long even threads that linger have given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Settings of one session.

    ONNX Runtime itself would start a thread for each physical core of the machine, however few of them this process may
    use, and let them wait busily between calls, too.
    """

    threads: int
    spinning: bool = True
    """Whether threads without work wait busily during a call: sooner at work, but in the way of other processes."""
    lingering: bool = False
    """Whether they go on so for a moment after each call: the next one starts sooner, but whatever else is at work on
    the machine waits, other models of this process, too."""

    @classmethod
    def default(cls) -> SessionSettings:
        """What a session is opened with where nothing else is asked for."""
        return cls(threads=available_threads())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SessionSettings:
        """The settings that `to_json` gave."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @property
    def rest_seconds(self) -> float:
        """How long after a call its threads may be in the way of others."""
        return _LINGER_SECONDS if self.lingering else 0.0

    def to_options(self) -> ort.SessionOptions:
        """The options of a new session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        if not self.lingering:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options
