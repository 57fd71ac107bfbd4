"""Device, precision and threads for torch, through Lightning Fabric."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from zoo.errors import DeviceError, RunError

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T", nn.Module, Tensor)

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells on stderr what it chose

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def make_fabric(device: Device, threads: int) -> Fabric:
    """The engine for one device: bfloat16 autocast on CUDA where the device has it (else float16), float32 on the CPU.

    Raises DeviceError where CUDA is asked for and absent: never the CPU in its place.
    """
    accelerator = find_accelerator(device)
    torch.set_num_threads(threads)
    if accelerator == "cpu":
        keep_freed_memory()
        return Fabric(accelerator="cpu", devices=1, precision="32-true")
    return Fabric(accelerator="cuda", devices=1, plugins=[mixed_precision()])


def device_name(fabric: Fabric) -> str:
    """What computes, in words: the name of the GPU, or the CPU and its threads."""
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"CPU, threads: {torch.get_num_threads()}"


def find_accelerator(device: Device, count: int = 1) -> Literal["cpu", "cuda"]:
    """Where `count` processes compute, one device each. Raises DeviceError where CUDA lacks the devices."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not available:
        raise DeviceError("device not there: 'cuda' (torch sees no NVIDIA device); use --device cpu")
    if device == "cpu" or not available:
        return "cpu"
    if count > available:
        raise DeviceError(f"devices not there: --devices {count}, torch sees {available}; give {available} at most")
    return "cuda"


class Autocast(MixedPrecision):
    """Lightning's mixed precision, but what goes into the network stays float32.

    Kept activations would be rounded in training, which goes through Lightning's wrapper, and not in evaluation.
    """

    def convert_input(self, data: Any) -> Any:
        """The data as they are."""
        return data


def mixed_precision() -> Autocast:
    """bfloat16 where the CUDA device has it (and does not only emulate it, slowly), else float16."""
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Autocast("bf16-mixed" if native else "16-mixed", "cuda")


def place(item: T, fabric: Fabric) -> T:
    """A module or a batch on the engine's device, images and feature maps [N, C, H, W] with channels last in memory.

    Convolutions are faster so: measured on 2 CPU cores, 1.2 to 1.5 times in training and up to 2.2 times in evaluation.
    A GPU is not waited for where the memory is pinned.
    """
    if isinstance(item, Tensor) and item.ndim != 4:
        return item.to(fabric.device, non_blocking=True)
    return item.to(  # type: ignore[call-overload, no-any-return]
        fabric.device, memory_format=torch.channels_last, non_blocking=True
    )


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Where `on`, only operations that give the same result each time, for the length of a `with` block.

    Raises RunError that names the first operation without such a form.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, read when it starts
    torch.use_deterministic_algorithms(on)
    try:
        yield
    except RuntimeError as error:
        operation, without, _ = str(error).partition(" does not have a deterministic implementation")
        if not without:
            raise
        raise RunError(f"--deterministic: {operation} gives another result each time; leave the option out") from error
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Torch on one thread, so that as many workers as there were threads run side by side without waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds_of(function: Callable[[], Any]) -> float:
    """The faster of two calls after one that warms up. A GPU is only waited for where `function` does."""
    function()
    times = []
    for _ in range(2):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next tensor.

    By default it gives every large tensor back to the kernel, and the page faults of getting it again dominate
    training on the CPU: with these settings a mobilenet_v2 training step runs 1.4 to 1.8 times as fast.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has no mallopt worth calling
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 256 * 1024**2)


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) made of all `parts`.

    Every random choice gets its own seed from what it is for (run seed, epoch, step), so that a resumed run needs
    no generator state to go on exactly where it stopped.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by `parts`, see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
