"""ONNX Runtime sessions on exactly the device that was asked for."""

from __future__ import annotations

import ctypes
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal, get_args

import onnxruntime as ort

from zoo.errors import DeviceError, ModelError, UsageError, did_you_mean
from zoo.runtime.settings import SessionSettings

Device = Literal["auto", "cpu", "cuda"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "directml"]

_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
_PACKAGES = {"cuda": "onnxruntime-gpu", "openvino": "onnxruntime-openvino", "directml": "onnxruntime-directml"}
_NVIDIA = ("cuda", "tensorrt")
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}
"""Its own default tries every algorithm out whenever it sees a new shape, which takes some hundred milliseconds."""

ort.disable_telemetry_events()  # on platforms whose builds of ONNX Runtime report home


def open_session(
    path: Path,
    *,
    device: Device | Provider = "auto",
    device_id: int = 0,
    threads: int | None = None,
    settings: SessionSettings | None = None,
    profile: Path | None = None,
    content: bytes | None = None,
) -> ort.InferenceSession:
    """A session for the model in `path`, its first execution provider being that of `device`.

    `auto` is CUDA where an NVIDIA device answers, else the CPU; `device_id` is which of these devices. `threads`
    defaults to what this process may use; with `settings`, theirs count. `profile` is a path prefix under which ONNX
    Runtime writes its trace when the session's profiling ends. `content` is the model where it was made from that of
    the file.

    Raises DeviceError where the device is not there (ONNX Runtime itself would fall back to the CPU with a log
    line), ModelError where the file is not a model ONNX Runtime can load.
    """
    provider = find_provider(device, device_id)
    if settings is None:
        settings = SessionSettings(threads=threads) if threads else SessionSettings.default()
    options = settings.to_options()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not path.is_file():
        raise ModelError(f"no such model: {path}; give the .onnx file that `zoo export` wrote")
    try:
        with redirect_stdout(sys.stderr):  # where it prints what it does not find
            providers = _with_options(provider, device_id)
            session = ort.InferenceSession(content or str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types are not part of its public interface
        reason = " ".join(str(error).split())
        raise ModelError(f"not a model ONNX Runtime can load: {path} ({reason:.200}); export it again") from None
    if session.get_providers()[0] != _NAMES[provider]:
        libraries = "the CUDA libraries (`pip install 'onnxruntime-gpu[cuda,cudnn]'`)"
        raise DeviceError(
            f"ONNX Runtime could not use {_NAMES[provider]}: it would run on {session.get_providers()[0]}; "
            f"install {libraries if provider == 'cuda' else 'its libraries'} or use the cpu"
        )
    return session


def read_device(text: str) -> tuple[Device, int]:
    """What `--device` says: `auto`, `cpu`, `cuda`, or `cuda:1` for the second NVIDIA device. Raises UsageError for
    anything else."""
    name, colon, number = text.partition(":")
    for device in get_args(Device):
        if name == device and (not colon or (name == "cuda" and number.isascii() and number.isdigit())):
            return device, int(number or 0)
    hint = did_you_mean(text, get_args(Device)) or "give auto, cpu, cuda, or cuda:1 for the second one"
    raise UsageError(f"--device: {text!r}; {hint}")


def find_provider(device: Device | Provider, device_id: int = 0) -> Provider:
    """The execution provider that `device` asks for. Raises DeviceError where it is unknown or cannot be there."""
    if device == "auto":
        device = "cuda" if cuda_devices() else "cpu"
    if device not in _NAMES:
        known = [*get_args(Device), *_NAMES]
        raise DeviceError(f"unknown device: {device!r}; {did_you_mean(device, known) or 'one of ' + ', '.join(_NAMES)}")
    if device in _NVIDIA:
        count = cuda_devices()
        if not count:
            raise DeviceError(f"device not there: {device!r} (no NVIDIA driver or device found); use --device cpu")
        if device_id >= count:
            raise DeviceError(f"device not there: '{device}:{device_id}' ({count} found); use {device}:{count - 1}")
    if _NAMES[device] not in ort.get_available_providers():
        package = _PACKAGES.get(device, "a build of ONNX Runtime that has it")
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} has no {_NAMES[device]}; install {package} or use --device cpu"
        )
    return device


def working_providers(path: Path) -> list[Provider]:
    """The execution providers on which the model in `path` really opens here. Raises ModelError where none does."""
    found: list[Provider] = []
    for provider in get_args(Provider):
        try:
            open_session(path, device=provider)
        except DeviceError:
            continue
        found.append(provider)
    return found


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


def _with_options(provider: Provider, device_id: int) -> list[str | tuple[str, dict[str, str]]]:
    """What is handed to ONNX Runtime: the provider, its libraries loaded, and for what TensorRT cannot do, CUDA."""
    if provider not in _NVIDIA:
        return [_NAMES[provider]]
    ort.preload_dlls(directory="")
    place = {"device_id": str(device_id)}
    cuda = (_NAMES["cuda"], {**_CUDA_OPTIONS, **place})
    return [cuda] if provider == "cuda" else [(_NAMES[provider], place), cuda]
