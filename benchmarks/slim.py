"""Does it pay to shrink an exported file further: with onnxslim, or with ONNX Runtime's own optimiser ahead of time.

    pip install onnxslim
    python benchmarks/slim.py

Networks with random weights and a random head of five classes, each at its own input size. The file as `zoo export`
writes it, what onnxslim makes of it, and what ONNX Runtime saves after its extended optimisations take turns; times of
loading are the median of ten, in turns, too.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxslim
import torch
from reporting import report

from zoo.catalogue import Catalogue
from zoo.export.graph import to_onnx
from zoo.nn.build import build_backbone
from zoo.nn.model import TransferModel
from zoo.runtime.golden import golden_image
from zoo.runtime.session import open_session
from zoo.runtime.timing import take_turns

_BACKBONES = ("squeezenet1_1", "mobilenet_v2", "resnet18", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t")
_LOADS = 10


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only backbones whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each file at each batch size")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in _BACKBONES:
        if arguments.only is None or arguments.only in name:
            with tempfile.TemporaryDirectory() as folder:
                rows += _compare(f"torchvision/{name}", Path(folder), arguments.seconds)
    report(rows, arguments.out)


def _compare(name: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    spec = Catalogue.installed().find_backbone(name)[0].spec
    given = spec.weights[0].input
    head = torch.nn.Linear(spec.num_features, 5)
    proto = to_onnx(
        TransferModel(backbone=build_backbone(name, spec, None), head=head, input_spec=given).eval(), embedding=True
    )
    files = {kind: folder / f"{kind}.onnx" for kind in ("as exported", "onnxslim", "saved by ONNX Runtime")}
    onnx.save(proto, files["as exported"])
    onnx.save(onnxslim.slim(proto), files["onnxslim"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(files["saved by ONNX Runtime"])
    ort.InferenceSession(files["as exported"], options, providers=["CPUExecutionProvider"])
    loads: dict[str, list[float]] = {kind: [] for kind in files}
    for _ in range(_LOADS):
        for kind, path in files.items():
            began = perf_counter()
            open_session(path, device="cpu", threads=1)
            loads[kind].append(perf_counter() - began)
    sessions = {kind: open_session(path, device="cpu", threads=1) for kind, path in files.items()}
    faster: dict[int, list[float]] = {}
    differences = [0.0] * len(files)
    for batch in (1, 8):
        pixels = np.repeat(golden_image(given.height, given.width, 0)[None], batch, axis=0)
        calls = [partial(session.run, None, {"image": pixels}) for session in sessions.values()]
        embeddings = [call()[1] for call in calls]
        scale = np.abs(embeddings[0]).max()
        for number, found in enumerate(embeddings):
            differences[number] = max(differences[number], float(np.abs(found - embeddings[0]).max() / scale))
        timings = take_turns(calls, seconds=seconds)
        faster[batch] = [timing.times_as_fast_as(timings[0]) for timing in timings]
    return [
        {
            "backbone": name,
            "file": kind,
            "nodes": len(onnx.load(path).graph.node),
            "mb": path.stat().st_size / 1e6,
            "load_ms": 1e3 * median(loads[kind]),
            "faster_1": faster[1][number],
            "faster_8": faster[8][number],
            "difference": differences[number],
        }
        for number, (kind, path) in enumerate(files.items())
    ]


if __name__ == "__main__":
    main()
