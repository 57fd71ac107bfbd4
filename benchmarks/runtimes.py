"""Do exported files load and answer alike in the ONNX Runtimes of the last two years?

    python benchmarks/runtimes.py photos.onnx photos-int8.onnx gate.onnx --versions 1.22.0 1.32.0

Each version is installed into a virtual environment of its own. Every output is compared with what the ONNX Runtime of
this environment gives for the same pictures by formula, at batches 1, 2, 3 and 8 and at two sizes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reporting import report

from zoo.runtime.golden import golden_image
from zoo.runtime.model import OnnxModel

_BATCHES = (1, 2, 3, 8)
_SIZES = ((48, 64), (300, 400))
_ONE = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = np.load(sys.argv[2])
found = {f"{name}/{n}": value for name in given for n, value in enumerate(session.run(None, {"image": given[name]}))}
np.savez(sys.argv[3], **found)
"""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--versions", nargs="+", default=["1.22.0", "1.32.0"])
    parser.add_argument("--work", type=Path, help="a folder in which environments are kept")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    images = {
        f"{height}x{width}, batch {batch}": np.stack([golden_image(height, width, seed) for seed in range(batch)])
        for height, width in _SIZES
        for batch in _BATCHES
    }
    given = work / "images.npz"
    np.savez(given, **images)  # type: ignore[arg-type]
    rows = []
    for version in arguments.versions:
        python = _install(version, work)
        for model in arguments.models:
            rows.append({"model": model.name, "onnxruntime": version, **_compare(model, python, given, images, work)})
    report(rows, arguments.out)


def _install(version: str, work: Path) -> Path:
    folder = work / f"onnxruntime-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"onnxruntime=={version}"], check=True)
    return python


def _compare(model: Path, python: Path, given: Path, images: dict[str, Any], work: Path) -> dict[str, Any]:
    answers = work / "answers.npz"
    ended = subprocess.run(
        [python, "-c", _ONE, model, given, answers], capture_output=True, text=True, cwd=work, check=False
    )
    if ended.returncode:
        return {"loads": False, "max_abs": None, "error": ended.stderr.strip().splitlines()[-1]}
    found, here = np.load(answers), OnnxModel(model, device="cpu", threads=1)
    worst = max(_worst(here, name, pixels, found) for name, pixels in images.items())
    return {"loads": True, "max_abs": f"{worst:.1e}", "error": ""}


def _worst(here: OnnxModel, name: str, pixels: Any, found: Any) -> float:
    expected: Sequence[Any] = here.run({"image": pixels})
    return max(float(np.abs(found[f"{name}/{n}"] - value).max()) for n, value in enumerate(expected))


if __name__ == "__main__":
    sys.exit(main())
