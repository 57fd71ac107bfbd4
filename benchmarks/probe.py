"""What a probe costs beside one bare pass over the data.

    python benchmarks/probe.py flowers5.zip --backbone torchvision/mobilenet_v2 --weights mobilenet_v2.pth

The bare pass: a process that decodes every image with Pillow and runs the exported backbone in ONNX Runtime with two
threads, and does nothing else. The probe: the whole command, for the first time (nothing prepared), with the engine
prepared, and with the features kept from an earlier run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from commands import finetune
from reporting import report

from zoo.catalogue import Catalogue
from zoo.data.source import list_source
from zoo.nn.onnx_graph import export_graph
from zoo.specs import ImageInput

_BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import onnxruntime as ort
from PIL import Image
model, size, resize, *files = sys.argv[1:]
size, resize = int(size), int(resize)
mean, std = np.array([0.485, 0.456, 0.406], np.float32) * 255, np.array([0.229, 0.224, 0.225], np.float32) * 255
def read(path):
    with Image.open(path) as image:
        image = image.convert("RGB")
        scale = resize / min(image.size)
        image = image.resize([max(resize, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)
options = ort.SessionOptions()
options.intra_op_num_threads = 2
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with ThreadPoolExecutor(2) as pool:
    for start in range(0, len(files), 32):
        session.run(None, {"images": np.stack(list(pool.map(read, files[start:start + 32])))})
"""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        bare = _bare_seconds(arguments.data, arguments.backbone, Path(folder))
        rows.append(_row("one bare pass", bare, bare, None))
        words = [arguments.data, "--backbone", arguments.backbone, "--weights", arguments.weights]
        for way in ("probe, for the first time", "probe, engine prepared", "probe, features kept"):
            if way == "probe, engine prepared":
                shutil.rmtree(cache / "features")
            result, wall = finetune([*words, "--strategy", "probe"], cache)
            rows.append(_row(way, wall, bare, result))
    report(rows, arguments.out)


def _bare_seconds(data: str, backbone: str, folder: Path) -> float:
    """Seconds of the bare pass over all images of `data`, start of Python included."""
    import torch

    catalogue = Catalogue.installed()
    entry, _ = catalogue.find_backbone(backbone)
    spec: ImageInput = entry.spec.input
    module = entry.spec.split(entry.spec.build())
    module.source_head = None
    example = torch.zeros(2, 3, spec.height, spec.width)
    axes = {0: torch.export.Dim("batch")}
    model = folder / "backbone.onnx"
    model.write_bytes(export_graph(module, example, inputs="images", outputs=["x"], axes=axes).SerializeToString())
    listing = list_source(data, folder)
    files = [str(listing.root / file.file) for file in listing.files]
    command = [sys.executable, "-c", _BARE, str(model), str(spec.height), str(round(spec.height / spec.crop_fraction))]
    began = time.perf_counter()
    subprocess.run([*command, *files], check=True)
    return time.perf_counter() - began


def _row(way: str, seconds: float, bare: float, result: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "way": way,
        "seconds in all": round(seconds, 1),
        "of a bare pass": round(seconds / bare, 2),
        "test accuracy": result["test_accuracy"] if result else None,
    }


if __name__ == "__main__":
    main()
