"""How long a backbone takes for one image: a fact of the architecture and of the machine, not of its weights."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch

from zoo.nn.onnx_graph import write_traced
from zoo.runtime.machine import processor_name
from zoo.runtime.session import open_session
from zoo.specs import BackboneSpec

_WARM_RUNS = 3
_FEWEST_RUNS = 5
_SECONDS = 2.0


def backbone_latency(spec: BackboneSpec) -> float:
    """The median time, in milliseconds, of one image of the backbone's input size in ONNX Runtime on one CPU thread.

    Random weights; without preprocessing and head. Raises ModelError where the backbone cannot be exported.
    """
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        backbone = spec.split(spec.build()).eval()
        backbone.source_head = None
        image = torch.randn(1, spec.input.channels, spec.input.height, spec.input.width)
        path = Path(folder) / "backbone.onnx"
        write_traced(backbone, image, path, inputs="image", outputs="embedding")
        session, feeds, times = open_session(path, device="cpu", threads=1), {"image": image.numpy()}, list[float]()
        for _ in range(_WARM_RUNS):
            session.run(None, feeds)
        while len(times) < _FEWEST_RUNS or sum(times) < _SECONDS:
            began = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def this_machine() -> str:
    """What the processor calls itself, and the version of ONNX Runtime."""
    return f"{processor_name()}, onnxruntime {onnxruntime.__version__}"
