"""ONNX Runtime sessions on exactly the device that was asked for."""

from __future__ import annotations

import ctypes
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal, get_args

import onnxruntime as ort

from zoo.errors import DeviceError, ModelError
from zoo.runtime.threads import available_threads

Device = Literal["auto", "cpu", "cuda"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(
    path: Path, *, device: Device = "auto", threads: int | None = None, profile: Path | None = None
) -> ort.InferenceSession:
    """A session for the model in `path`, its first execution provider being that of `device`.

    `auto` is CUDA where an NVIDIA device answers, else the CPU. `threads` defaults to what this process may use.
    `profile` is a path prefix under which ONNX Runtime writes its trace when the session's profiling ends.

    Raises DeviceError where the device is not there (ONNX Runtime itself would fall back to the CPU with a log
    line), ModelError where the file is not a model ONNX Runtime can load.
    """
    if device not in get_args(Device):
        raise DeviceError(f"unknown device: {device!r}; one of {', '.join(get_args(Device))}")
    if device == "auto":
        device = "cuda" if cuda_devices() else "cpu"
    if device == "cuda":
        _require_cuda()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    wanted = _PROVIDERS[device]
    if not path.is_file():
        raise ModelError(f"no such model: {path}; give the .onnx file that `zoo export` wrote")
    try:
        session = ort.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:  # ONNX Runtime's own exception types are not part of its public interface
        reason = " ".join(str(error).split())
        raise ModelError(f"not a model ONNX Runtime can load: {path} ({reason:.200}); export it again") from None
    if session.get_providers()[0] != wanted:
        raise DeviceError(
            f"ONNX Runtime could not use {wanted}: it would run on {session.get_providers()[0]}; "
            "install the CUDA libraries (`pip install 'onnxruntime-gpu[cuda,cudnn]'`) or use --device cpu"
        )
    return session


def cuda_devices() -> int:
    """How many NVIDIA devices the driver reports; 0 without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _require_cuda() -> None:
    if not cuda_devices():
        raise DeviceError("device not there: 'cuda' (no NVIDIA driver or device found); use --device cpu")
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} has no CUDA provider; install onnxruntime-gpu or use --device cpu"
        )
    with redirect_stdout(sys.stderr):  # where it prints what it does not find
        ort.preload_dlls(directory="")
