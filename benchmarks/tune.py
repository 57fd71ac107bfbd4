"""What `zoo bench --tune` gains: tuned settings beside Zoo's and beside ONNX Runtime's own defaults.

    python benchmarks/tune.py --budget 30

Ten networks with random weights and a random head of five classes, from small to large, each at its own input size.
For each batch size the settings are searched anew, and then three sessions take turns: a bare `ort.InferenceSession`,
Zoo's default, and the tuned one. Threads of a bare session go on waiting busily after a call, in the way of the others;
after each turn there is a rest until they have given up.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from reporting import report

from zoo.bench.tune import tune
from zoo.catalogue import Catalogue
from zoo.export.graph import to_onnx
from zoo.nn.build import build_backbone
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.golden import golden_image
from zoo.runtime.session import open_session
from zoo.runtime.timing import take_turns
from zoo.runtime.tuned import find_settings

_BACKBONES = (
    "tiny/glyphnet",
    "torchvision/mobilenet_v3_small",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v2",
    "torchvision/regnet_y_400mf",
    "torchvision/efficientnet_b0",
    "torchvision/resnet18",
    "torchvision/densenet121",
    "torchvision/resnet50",
    "torchvision/convnext_tiny",
)
_CLASSES = 5
_REST_SECONDS = 0.1


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only backbones whose name contains this")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each search")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in _BACKBONES:
        if arguments.only and arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            height, width = _export(name, path)
            for batch in (1, 8):
                pixels = np.repeat(golden_image(height, width, 0)[None], batch, axis=0)
                rows.append({"backbone": name, "batch": batch, **_row(path, pixels, arguments)})
    report(rows, arguments.out)
    for contender in ("default", "tuned"):
        faster = [row[f"{contender}: times as fast"] for row in rows]
        print(f"{contender}: median {statistics.median(faster):.3f}, worst {min(faster):.3f} times as fast as plain")


def _export(name: str, path: Path) -> tuple[int, int]:
    """Writes the model and gives the height and width of its input."""
    torch.manual_seed(0)
    spec = Catalogue.installed().find_backbone(name)[0].spec
    given = spec.weights[0].input if spec.weights else spec.input
    head = torch.nn.Linear(spec.num_features, _CLASSES)
    model = TransferModel(backbone=build_backbone(name, spec, None), head=head, input_spec=given).eval()
    proto = to_onnx(model)
    for axis, size in ((1, given.height), (2, given.width)):  # a file without manifest does not say it otherwise
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    path.write_bytes(proto.SerializeToString())
    return given.height, given.width


def _row(path: Path, pixels: np.ndarray, arguments: argparse.Namespace) -> dict[str, Any]:
    found = tune(
        path,
        device="cpu",
        batch=len(pixels),
        goal="latency",
        budget=arguments.budget,
        progress=Silent(),
    )
    kept = find_settings(path, "cpu")
    sessions = {
        "plain": ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
        "default": open_session(path, device="cpu"),
        "tuned": open_session(path, device="cpu", settings=kept),
    }
    calls = [_call(session, pixels) for session in sessions.values()]
    timings = dict(
        zip(sessions, take_turns(calls, seconds=arguments.seconds, rests=[_REST_SECONDS] * len(calls)), strict=True)
    )
    row: dict[str, Any] = {**kept.to_json(), "gain when tuned": found["gain"]}
    row |= {f"{name}: ms": timing.median * 1e3 for name, timing in timings.items()}
    for name in ("default", "tuned"):
        row[f"{name}: times as fast"] = timings[name].times_as_fast_as(timings["plain"])
        row[f"{name}: rounds won"] = timings[name].rounds_faster_than(timings["plain"])
    return row


def _call(session: ort.InferenceSession, pixels: np.ndarray) -> Callable[[], object]:
    return lambda: session.run(["probabilities"], {"image": pixels})


if __name__ == "__main__":
    main()
