"""The parts of a trained network: what was frozen, what was trained, how fast, how large."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import RunError

_STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stage of the backbone, or the head."""

    name: str
    params: int
    shape: str
    """Channels and stride of a stage's output; empty for the head."""
    frozen: bool
    """To the end."""
    lr: float
    """0 where nothing is learnt by steps."""
    first_step: int = 0
    """Steps before it was thawed."""


def network_parts(plan: Mapping[str, Any], weights: Path) -> list[Part]:
    """The parts of the network of `plan` (as in result.json), bottom to top, as large as they are in `weights`."""
    params = _count_params(weights)
    stages = [
        Part(
            name=f"stage {number}",
            params=params[f"backbone.stages.{number}"],
            shape=f"{stage['channels']} channels, stride {stage['stride']}",
            frozen=number < plan["freeze_stages"],
            lr=lr,
            first_step=_first_step(plan, number),
        )
        for number, (stage, lr) in enumerate(zip(plan["stages"], plan["stage_lrs"], strict=True))
    ]
    # A pool with parameters is frozen and trained with the last stage.
    pool = Part(
        name="pool",
        params=params["backbone.pool"],
        shape="",
        frozen=plan["freeze_stages"] == len(stages),
        lr=plan["stage_lrs"][-1],
        first_step=_first_step(plan, len(stages) - 1),
    )
    head = Part(name="head", params=params["head"], shape="", frozen=False, lr=plan["head_lr"])
    return [*stages, *([pool] if pool.params else []), head]


def _first_step(plan: Mapping[str, Any], stage: int) -> int:
    """Steps of the phases in which a stage is frozen; of phases before runs had any, none."""
    phases = [phase for phase in plan.get("phases", ()) if phase["freeze_stages"] > stage]
    return sum(phase["epochs"] * plan["steps_per_epoch"] for phase in phases)


def _count_params(weights: Path) -> Counter[str]:
    """Parameters of each part in a safetensors file, by the names `TransferModel` gives its parts.

    Only the header is read: eight bytes of length, then JSON (https://github.com/huggingface/safetensors#format).
    Raises RunError where it cannot be.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, weights.stat().st_size)))
    except (OSError, ValueError, struct.error) as error:
        raise RunError(f"cannot read {weights}: {error}; restore it or start the run again") from None
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        # Integer tensors are indices and counters, not parameters.
        if name == "__metadata__" or name.endswith(_STATISTICS) or "F" not in tensor["dtype"]:
            continue
        words = name.split(".")
        part = words[: {"stages": 3, "pool": 2}.get(words[1], 1)] if words[0] == "backbone" else words[:1]
        counts[".".join(part)] += math.prod(tensor["shape"])
    return counts
