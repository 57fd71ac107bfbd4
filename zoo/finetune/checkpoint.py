"""The state of an unfinished training, written whole in one step, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.errors import RunError
from zoo.nn.weights import save_tensors


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a training stands, apart from its tensors. All randomness follows from the seed and these."""

    step: int = 0
    """Optimiser steps done."""
    best_step: int = 0
    best_merit: tuple[float, float] = (-1.0, float("-inf"))
    """How good the best weights so far are, see `Score.merit`."""
    stale: int = 0
    """Evaluations since the best one."""
    loss_sum: float = 0.0
    loss_count: int = 0
    """Training loss since the last evaluation."""
    seconds: float = 0.0
    stopped: bool = False
    diverged: bool = False
    """The loss was no number at the step after these."""

    def __post_init__(self) -> None:
        right, certain = self.best_merit
        self.best_merit = right, certain  # a list where it comes from JSON


def save_checkpoint(path: Path, position: Position, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Writes `tensors` (name -> tensor) and the position as one safetensors file, atomically.

    `extra` is what else must survive, as JSON values. Raises RunError as `save_tensors` does.
    """
    save_tensors(path, tensors, {"position": json.dumps(asdict(position)), "extra": json.dumps(dict(extra))})


def load_checkpoint(path: Path, device: torch.device) -> tuple[Position, dict[str, Tensor], dict[str, Any]] | None:
    """Position, tensors (on `device`) and extra of the checkpoint in `path`; None where there is none yet.

    Raises RunError where the file is damaged: it is written in one step, so this is not a crash's doing.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return Position(**json.loads(metadata["position"])), tensors, json.loads(metadata["extra"])
    except Exception as error:
        raise RunError(f"damaged checkpoint: {path} ({error}); delete it to train again from the start") from None
