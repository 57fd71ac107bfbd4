"""The fastest way to run a frozen module on this machine: torch or ONNX Runtime, measured once and remembered."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from zoo.artifacts.files import NO_ROOM, folder_once, read_json, sha256_json, write_json
from zoo.errors import ModelError
from zoo.nn.onnx_graph import write_traced
from zoo.progress import Progress
from zoo.runtime.session import open_session

WORTH_MACS = 100e9
"""Below this much work in all, torch is done before another engine has been prepared."""
_INPUT, _OUTPUT = "images", "features"
_REPEATS = 5
_TOLERANCE = 1e-4


def cpu_engine(
    module: nn.Module, example: Tensor, *, digest: str, root: Path, progress: Progress
) -> Callable[[Tensor], Tensor]:
    """`module` in the faster engine on one thread: images [N, 3, H, W] to features [N, D].

    `example` [1, 3, H, W] has the size of the images; `digest` stands for the module's weights. What was prepared and
    measured is kept under `root`. Call it with torch set to one thread.
    """

    def in_torch(images: Tensor) -> Tensor:
        with torch.inference_mode():
            features: Tensor = module(images.contiguous(memory_format=torch.channels_last))
            return features

    key = {"schema": 2, "weights": digest, "input": list(example.shape), **_versions()}

    def prepare(folder: Path) -> None:
        path = folder / "module.onnx"
        times: dict[str, Any] = {"torch_ms": _milliseconds(in_torch, example)}
        try:
            write_traced(module, example, path, inputs=_INPUT, outputs=_OUTPUT)
            times["onnxruntime_ms"] = _milliseconds(_session(path), example)
            _check_same(_session(path)(example), in_torch(example))
        except ModelError as error:
            times["why_not"] = str(error)
        faster = "why_not" not in times and times["onnxruntime_ms"] < times["torch_ms"]
        write_json(folder / "choice.json", {**key, **times, "engine": "onnxruntime" if faster else "torch"})

    def open_prepared() -> Callable[[Tensor], Tensor]:
        with progress.task("preparing the fastest engine", 1) as task:
            folder = folder_once(root / sha256_json(key), prepare)
            task.advance()
        if read_json(folder / "choice.json")["engine"] == "torch":
            return in_torch
        return _session(folder / "module.onnx")

    try:
        return open_prepared()
    except (ModelError, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            progress.say(f"no engine is prepared, torch computes: {root} ({error.strerror})")
            return in_torch
        progress.say(f"the prepared engine is damaged, preparing it again: {root / sha256_json(key)} ({error})")
        shutil.rmtree(root / sha256_json(key), ignore_errors=True)
        return open_prepared()


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    """The exported module, which takes one image at a time: on one thread larger batches are slower."""
    session = open_session(path, device="cpu", threads=1)

    def run(images: Tensor) -> Tensor:
        rows = [session.run(None, {_INPUT: image[None].numpy()})[0] for image in images.contiguous()]
        return torch.cat([torch.from_numpy(row) for row in rows])

    return run


def _check_same(found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= _TOLERANCE:
        raise ModelError(f"ONNX Runtime differs from torch: by {difference:.1e} of the largest value")


def _milliseconds(function: Callable[[Tensor], Tensor], example: Tensor) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        function(example)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def _versions() -> dict[str, str]:
    # ONNX Runtime comes from one of two distributions, so it is asked itself.
    return {"torch": version("torch"), "onnxscript": version("onnxscript"), "onnxruntime": onnxruntime.__version__}
