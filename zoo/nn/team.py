"""Several processes that train one model together, each on a device of its own: what they split and agree on.

Alone, every function here gives back what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from zoo.nn.batches import Share
from zoo.nn.engine import Device, find_accelerator, keep_freed_memory, mixed_precision

_TIMEOUT = timedelta(minutes=30)
"""The longest that one process waits for another: a tracker may keep the first one for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one process among those that train together."""

    rank: int
    world: int
    meeting: Path
    """The file, not there yet, through which they find each other: unlike a port, nobody else can come to it."""


def join(seat: Seat, *, device: Device, threads: int) -> Fabric:
    """The engine of this process, once all others have joined too: DDP over NCCL on GPUs, over gloo on the CPU."""
    accelerator = find_accelerator(device, seat.world)
    if accelerator == "cuda":
        torch.cuda.set_device(seat.rank)
    else:
        keep_freed_memory()
    os.environ["LOCAL_RANK"] = str(seat.rank)  # tells Lightning that this process is already one of several
    dist.init_process_group(
        # What is agreed on lies on the CPU and never waits for a GPU.
        "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo",
        store=FileStore(str(seat.meeting), seat.world),
        rank=seat.rank,
        world_size=seat.world,
        timeout=_TIMEOUT,
    )
    fabric = Fabric(
        accelerator=accelerator,
        devices=seat.world,
        strategy="ddp",
        plugins=[LightningEnvironment(), *([mixed_precision()] if accelerator == "cuda" else [])],
    )
    fabric.launch()
    torch.set_num_threads(threads)
    return fabric


def leave() -> None:
    """Parts from the other processes when they are ready to part, too."""
    dist.barrier()
    dist.destroy_process_group()


def share_of(fabric: Fabric) -> Share:
    """The part of every batch that is this process's."""
    return Share(rank=fabric.global_rank, world=fabric.world_size)


def mean(fabric: Fabric, value: float) -> float:
    """The mean of everybody's `value`."""
    return _sum(value) / fabric.world_size if fabric.world_size > 1 else value


def anywhere(fabric: Fabric, flag: bool) -> bool:
    """Whether `flag` is set for anybody."""
    return _sum(float(flag)) > 0 if fabric.world_size > 1 else flag


def gathered(fabric: Fabric, parts: Sequence[Tensor]) -> Tensor:
    """Everybody's `parts` (the first of each, then the second of each, ...) as one tensor on the CPU."""
    if fabric.world_size == 1:
        return torch.cat(list(parts))
    found: list[Sequence[Tensor]] = [()] * fabric.world_size
    dist.all_gather_object(found, parts)
    rounds = range(max(map(len, found)))
    return torch.cat([theirs[number] for number in rounds for theirs in found if number < len(theirs)])


def share_statistics(network: nn.Module, fabric: Fabric) -> None:
    """Lets BatchNorm inside `network` take its statistics over the whole batch and not over one device's part of it.

    There is such a thing for GPUs only. On the CPU each process takes them over its own part.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)


def share(tensors: Iterable[Tensor], fabric: Fabric) -> None:
    """Puts the first one's values into everybody's `tensors`."""
    if fabric.world_size > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def _sum(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)
