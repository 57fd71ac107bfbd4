"""Every exported backbone: does it give torch's answers, how long does the export take, and how fast is the file.

    python benchmarks/export.py --weights mobilenet_v2-4b92a41a.pth --weights squeezenet1_1-dc19ae52.pth

All torchvision backbones of Zoo with random weights, and those of which a file is given with these, each with a random
head of five classes, at its own input size and in a process of its own. uint8 pixels of that size go in, probabilities
come out, in ONNX Runtime as in torch: eager, eager with channels last in memory, and compiled. All take turns.
Finished rows are kept in --cells: a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import report

from zoo.catalogue import Catalogue
from zoo.data.images import decode_image
from zoo.export.answering import Answering
from zoo.export.graph import Serving, to_onnx
from zoo.export.parity import measure_parity, synthetic_jpegs
from zoo.nn.build import build_backbone
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel
from zoo.runtime.session import open_session
from zoo.runtime.timing import take_turns

_CLASSES = 5


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, action="append", default=[], help="NAME-DIGEST.pth, real ones")
    parser.add_argument("--only", help="only backbones whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender at each batch size")
    parser.add_argument("--batches", default="1,8", help="1 alone for networks that take seconds")
    parser.add_argument("--no-compile", action="store_true", help="leaves torch.compile out, which takes minutes")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, *weights = arguments.one
        print(json.dumps(_measure(name, Path(weights[0]) if weights else None, arguments)))
        return
    names = [entry.id for entry in Catalogue.installed().backbones if entry.id.startswith("torchvision/")]
    real = [("torchvision/" + path.name.partition("-")[0], path) for path in arguments.weights]
    cells = [(name, weights) for name, weights in [*((name, None) for name in names), *real]]
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = {row["backbone"]: row for row in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    rows = []
    for name, weights in cells:
        shown = f"{name}, {weights.name}" if weights else name
        if arguments.only and arguments.only not in shown:
            continue
        if shown not in done:
            done[shown] = {"backbone": shown, **_in_process(name, weights)}
            with log.open("a") as file:
                file.write(json.dumps(done[shown]) + "\n")
        rows.append(done[shown])
    report(rows, arguments.out)
    faster = [row for row in rows if min(value for key, value in row.items() if key.startswith("faster_")) >= 1]
    print(f"as fast as the fastest torch at every batch size: {len(faster)} of {len(rows)}")


def _in_process(name: str, weights: Path | None) -> dict[str, Any]:
    words = [*sys.argv[1:], "--one", name, *([str(weights)] if weights else [])]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return row


def _measure(name: str, weights: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    make_fabric("cpu", arguments.threads)  # torch as fast as Zoo makes it
    torch.manual_seed(0)
    spec = Catalogue.installed().find_backbone(name)[0].spec
    backbone = build_backbone(name, spec, weights)
    head = torch.nn.Linear(spec.num_features, _CLASSES)
    given = spec.weights[0].input if spec.weights else spec.input
    model = TransferModel(backbone=backbone, head=head, input_spec=given).eval()
    jpegs = synthetic_jpegs()
    picture = decode_image(jpegs[-1])
    with torch.inference_mode():
        _, embedding = model.run(model.preprocess(torch.from_numpy(picture)[None]))
    with torch.no_grad():
        # Random weights can make such large logits that every probability is 0 or 1, and parity says nothing.
        head.weight *= spec.num_features**0.5 / embedding.norm()
    began = time.perf_counter()
    proto = to_onnx(model)
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {"export_s": seconds, "mb": proto.ByteSize() / 1e6, "nodes": len(proto.graph.node)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        row["max_abs"] = measure_parity(Answering([model], None), path, jpegs, threads=arguments.threads)
        session = open_session(path, device="cpu", threads=arguments.threads)
    eager = Serving(model).eval()
    for batch in map(int, arguments.batches.split(",")):
        pixels = np.stack([np.resize(picture, (given.height, given.width, 3))] * batch)
        modules = {"eager": eager, "channels_last": copy.deepcopy(eager).to(memory_format=torch.channels_last)}
        if not arguments.no_compile:
            torch._dynamo.reset()
            modules["compiled"] = torch.compile(eager)
        calls = [lambda pixels=pixels: session.run(["probabilities"], {"image": pixels})]
        ours, *torchs = take_turns(
            [*calls, *(_call(module, pixels) for module in modules.values())], seconds=arguments.seconds
        )
        row[f"onnx_{batch}_ms"] = ours.median * 1e3
        for kind, timing in zip(modules, torchs, strict=True):
            row[f"{kind}_{batch}_ms"] = timing.median * 1e3
        row[f"faster_{batch}"] = min(ours.times_as_fast_as(timing) for timing in torchs)
    return row


def _call(module: Any, pixels: np.ndarray) -> Any:
    image = torch.from_numpy(pixels)

    def call() -> Any:
        with torch.inference_mode():
            return module(image)[0]

    return call


if __name__ == "__main__":
    main()
