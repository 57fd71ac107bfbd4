"""Eight bits: Zoo's export beside `torch.onnx.export` and ONNX Runtime's `quantize_static` as they come.

    python benchmarks/int8.py runs/flowers runs/trash

Finished runs of `zoo finetune`, whose images are still there. Accuracy and agreement with the labels of fp32 are those
of the test images, which no one has seen; speeds are of one thread, all files in turn, and relative to Zoo's in fp32.
Zoo's files take uint8 images of the network's own size, plain ones take tensors that something else has prepared. Both
are calibrated with the same 100 training images. Finished rows are kept in --cells: a benchmark that was cut off goes
on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from reporting import report

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet
from zoo.data.images import decode_image
from zoo.data.store import labels
from zoo.export.evidence import gather_evidence
from zoo.export.run import ExportOptions, export
from zoo.nn.cascade import load_members
from zoo.nn.engine import make_fabric
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel
from zoo.runtime.timing import take_turns

_IMAGES = 16
Call = Callable[[NDArray[Any]], NDArray[np.float32]]


class _Reader(CalibrationDataReader):
    def __init__(self, tensors: Sequence[NDArray[np.float32]]) -> None:
        self._left = iter(tensors)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        tensor = next(self._left, None)
        return None if tensor is None else {"x": tensor}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each file at each batch size")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    make_fabric("cpu", 1)
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for path in arguments.runs:
        if not any(row["run"] == path.name for row in rows):
            found = _compare(RunFolder.open_complete(path), arguments.seconds)
            rows += found
            with log.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)
    report([row for row in rows if any(row["run"] == path.name for path in arguments.runs)], arguments.out)


def _compare(run: RunFolder, seconds: float) -> list[dict[str, Any]]:
    data, [(model, record)] = DataSet.from_json(run.read("dataset")), load_members(run, Catalogue.installed())
    evidence = gather_evidence(data, record.classes, side=max(record.input.height, record.input.width))
    images = [decode_image(data.path(sample)) for sample in data.of("test")]
    truth = labels(data.of("test"))
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        files = {precision: _export(run, folder / f"{precision}.onnx", precision) for precision in ("fp32", "int8")}
        plain = _export_plain(model, folder, [_prepared(model, image) for image in evidence.calibration])
        tensors = [_prepared(model, image) for image in images]
        answers = {
            **{f"Zoo, {kind}": file.of_images(images, ["probabilities"], 1)[0] for kind, file in files.items()},
            **{f"plain, {kind}": np.concatenate([call(each) for each in tensors]) for kind, call in plain.items()},
        }
        sized = [np.ascontiguousarray(_prepared_pixels(model, image)) for image in images[:_IMAGES]]
        faster: dict[str, dict[int, float]] = {kind: {} for kind in answers}
        for batch in (1, 8):
            pixels = np.concatenate(sized[:batch])
            calls = [partial(file.run, {"image": pixels}, ["probabilities"]) for file in files.values()]
            timings = take_turns(
                [*calls, *(partial(call, np.concatenate(tensors[:batch])) for call in plain.values())], seconds=seconds
            )
            for kind, timing in zip(answers, timings, strict=True):
                faster[kind][batch] = timing.times_as_fast_as(timings[0])
    expected = {kind: answers[f"{kind}, fp32"].argmax(1) for kind in ("Zoo", "plain")}
    kept = files["int8"].require_manifest("bench").variants[0]
    return [
        {
            "run": run.path.name,
            "backbone": record.backbone,
            "file": kind,
            "accuracy": float((found.argmax(1) == truth).mean()),
            "agreement": float((found.argmax(1) == expected[kind.partition(",")[0]]).mean()),
            "faster_1": faster[kind][1],
            "faster_8": faster[kind][8],
            "note": (kept["refused"] or f"{kept['layers_kept']} layers in fp32") if kind == "Zoo, int8" else "",
        }
        for kind, found in answers.items()
    ]


def _export(run: RunFolder, out: Path, precision: Any) -> OnnxModel:
    options = ExportOptions(precision=precision, device="cpu", threads=1)
    export(run.path, out, catalogue=Catalogue.installed(), progress=Silent(), options=options)
    return OnnxModel(out, device="cpu", threads=1)


def _export_plain(model: TransferModel, folder: Path, calibration: Sequence[NDArray[np.float32]]) -> dict[str, Call]:
    """The network alone, as the exporter and the quantiser make it when nothing is asked of them."""
    logging.disable(logging.WARNING)
    path, quantised = folder / "plain.onnx", folder / "plain-int8.onnx"
    example, batch = (torch.from_numpy(calibration[0].repeat(2, 0)),), ({0: torch.export.Dim("batch")},)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, example, path, input_names=["x"], dynamic_shapes=batch, dynamo=True)
        quantize_static(path, quantised, _Reader(calibration))
    logging.disable(logging.NOTSET)
    return {"fp32": _session(path), "int8": _session(quantised)}


def _session(path: Path) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda tensor: session.run(None, {"x": tensor})[0]  # type: ignore[no-any-return]


def _prepared(model: TransferModel, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        tensor: NDArray[np.float32] = model.preprocess(torch.from_numpy(image)[None]).numpy()
    return tensor


def _prepared_pixels(model: TransferModel, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One image [1, S, S, 3] of the size that preprocessing resizes to."""
    side = round(model.preprocess.spec.height / model.preprocess.spec.crop_fraction)
    planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
