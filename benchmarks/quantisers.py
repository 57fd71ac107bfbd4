"""Quantisers side by side: `zoo export --precision int8`, ONNX Runtime's defaults, optimum-onnx and Olive.

    python benchmarks/quantisers.py runs/flowers runs/trash --optimum PYTHON --olive PYTHON

Finished runs of `zoo finetune`, whose images are still there. PYTHON is the interpreter of an environment in which the
other tool is installed. All get the same weights and the same 100 training images: the others the file that a plain
`torch.onnx.export` writes, and prepared images, one file of raw float32 each. All files are then judged in this
process, by the ONNX Runtime of this environment: what they lose against plain fp32 on the test images, which no one has
seen, and how many times as fast as it they are, in turn, on one thread. Zoo's file takes uint8 images of the network's
own size and prepares them, the others take finished tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eight_bits import INPUT, Subject, export_plain, export_zoo, judge, note, open_plain, quantise_plain, rows_of_all
from reporting import report

from zoo.nn.engine import make_fabric

_ZOO, _PLAIN = "Zoo", "none: fp32"
_OPTIMUM = Path(__file__).resolve().with_name("quantisers_optimum.py")
_FOR_VNNI = {"activation_type": "uint8", "per_channel": True}
"""Options of Olive's pass that make of its file what optimum-onnx makes for processors with VNNI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What other tools start from."""

    plain: Path
    calibration: Path
    """A folder of prepared images, in a folder of the input's name."""
    shape: Sequence[int]
    """Of an image, [1, 3, S, S]."""

    @classmethod
    def write(cls, subject: Subject, folder: Path) -> _Given:
        plain, calibration = folder / "plain.onnx", folder / "calibration"
        export_plain(subject, plain)
        (calibration / INPUT).mkdir(parents=True)
        for number, tensor in enumerate(subject.calibration):
            tensor.tofile(calibration / INPUT / f"{number:03}.bin")
        return cls(plain=plain, calibration=calibration, shape=subject.calibration[0].shape)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--optimum", type=Path, required=True, help="a Python with optimum-onnx[onnxruntime]")
    parser.add_argument("--olive", type=Path, required=True, help="a Python with olive-ai and onnxruntime")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each file at each batch size")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    make_fabric("cpu", 1)
    compare = partial(
        _compare,
        optimum=arguments.optimum.absolute(),
        olive=arguments.olive.absolute(),
        seconds=arguments.seconds,
    )
    report(rows_of_all(arguments.runs, compare, cells=arguments.cells), arguments.out)


def _compare(subject: Subject, *, optimum: Path, olive: Path, seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        given, zoo = _Given.write(subject, folder), folder / "zoo.onnx"
        with_olive = f"Olive {_version(olive, 'olive-ai')}"
        makers: dict[str, Callable[..., Path]] = {
            "ONNX Runtime's defaults": partial(_onnxruntime, subject, given),
            f"optimum-onnx {_version(optimum, 'optimum-onnx')}": partial(_optimum, optimum, given),
            f"{with_olive}, defaults": partial(_olive, olive, given, options={}),
            f"{with_olive}, for VNNI": partial(_olive, olive, given, options=_FOR_VNNI),
        }
        began = time.perf_counter()
        model, files = export_zoo(subject, zoo, "int8"), {_ZOO: zoo, _PLAIN: given.plain}
        took = {_ZOO: time.perf_counter() - began}
        for place, (maker, make) in enumerate(makers.items()):
            work = folder / str(place)
            work.mkdir()
            began = time.perf_counter()
            files[maker] = make(work=work)
            took[maker] = time.perf_counter() - began
        others = {maker: open_plain(path) for maker, path in files.items() if maker != _ZOO}
        found = judge(subject, zoo={_ZOO: model}, plain=others, seconds=seconds)
        megabytes = {maker: _bytes(path) / 1e6 for maker, path in files.items()}
    first = found[_PLAIN]
    right = {maker: float((judged.labels == subject.truth).mean()) for maker, judged in found.items()}
    return [
        {
            "run": subject.run.name,
            "backbone": subject.backbone,
            "quantiser": maker,
            "accuracy": right[maker],
            "points_lost": 100 * (right[_PLAIN] - right[maker]),
            "same_label": float((judged.labels == first.labels).mean()),
            "faster_1": judged.timings[1].times_as_fast_as(first.timings[1]),
            "faster_8": judged.timings[8].times_as_fast_as(first.timings[8]),
            "megabytes": megabytes[maker],
            "seconds_to_make": took.get(maker),
            "note": note(model) if maker == _ZOO else "",
        }
        for maker, judged in found.items()
    ]


def _onnxruntime(subject: Subject, given: _Given, *, work: Path) -> Path:
    out = work / "model.onnx"
    quantise_plain(given.plain, out, subject.calibration)
    return out


def _optimum(python: Path, given: _Given, *, work: Path) -> Path:
    words = [given.plain, given.calibration / INPUT, work, *given.shape[1:]]
    return _run([python, _OPTIMUM, *words], work=work, out=work / "plain_quantized.onnx")


def _olive(python: Path, given: _Given, *, work: Path, options: dict[str, Any]) -> Path:
    config = {
        "input_model": {"type": "OnnxModel", "model_path": str(given.plain)},
        "data_configs": [
            {
                "name": "images",
                "type": "RawDataContainer",
                "load_dataset_config": {
                    "data_dir": str(given.calibration),
                    "input_names": [INPUT],
                    "input_shapes": [list(given.shape)],
                },
            }
        ],
        "passes": {"quantise": {"type": "OnnxStaticQuantization", "data_config": "images", **options}},
        "output_dir": str(work / "made"),
    }
    (work / "config.json").write_text(json.dumps(config))
    words = [python, "-m", "olive", "run", "--config", "config.json"]
    return _run(words, work=work, out=work / "made" / "model.onnx")


def _run(command: Sequence[object], *, work: Path, out: Path) -> Path:
    """Runs another tool in a folder of its own: Olive 0.13 fails where the weights of the plain file lie."""
    environ = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=work, env=environ, capture_output=True, text=True, check=False)
    if not out.exists():  # Olive 0.13 ends with 0 where its pass fails
        raise SystemExit(f"no file was made: {' '.join(words)}\n{ended.stdout}{ended.stderr}")
    return out


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _bytes(path: Path) -> int:
    """Of a file and of the weights that the exporter puts beside it."""
    weights = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


if __name__ == "__main__":
    main()
