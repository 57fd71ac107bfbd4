"""What comparisons of eight-bit files share: a trained network, files that are made of it, and how they are judged."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.dataset import DataSet
from zoo.data.images import decode_image
from zoo.data.store import labels
from zoo.export.evidence import gather_evidence
from zoo.export.run import ExportOptions, export
from zoo.nn.cascade import load_members
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel
from zoo.runtime.timing import Timing, take_turns

INPUT = "x"
"""The input of plain files: prepared tensors."""

_BATCHES = (1, 8)
Call = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A trained network with the images that files made of it are calibrated and judged with."""

    run: Path
    model: TransferModel
    backbone: str
    calibration: Sequence[NDArray[np.float32]]
    """100 training images [1, 3, S, S], prepared as the network takes them."""
    images: Sequence[NDArray[np.uint8]]
    """The test images, which no one has seen."""
    truth: NDArray[np.int64]
    """Their classes [N]."""

    @classmethod
    def of(cls, run: Path) -> Subject:
        """Of a finished run whose images are still there."""
        folder = RunFolder.open_complete(run)
        data, [(model, record)] = DataSet.from_json(folder.read("dataset")), load_members(folder, Catalogue.installed())
        evidence = gather_evidence(data, record.classes, side=max(record.input.height, record.input.width))
        return cls(
            run=run,
            model=model,
            backbone=record.backbone,
            calibration=[_prepared(model, image) for image in evidence.calibration],
            images=[decode_image(data.path(sample)) for sample in data.of("test")],
            truth=labels(data.of("test")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a file answers, and how long it takes."""

    labels: NDArray[np.int64]
    """Of the test images [N]."""
    timings: Mapping[int, Timing]
    """By batch size, of one thread."""


def rows_of_all(
    runs: Sequence[Path], compare: Callable[[Subject], list[dict[str, Any]]], *, cells: Path | None
) -> list[dict[str, Any]]:
    """The rows of each run, kept in the file `cells` as soon as a run has them, and taken from there."""
    log = cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = list[dict[str, Any]]()
    for run in runs:
        of_run = [row for row in done if row["run"] == run.name]
        if not of_run:
            of_run = compare(Subject.of(run))
            with log.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in of_run)
        rows += of_run
    return rows


def note(model: OnnxModel) -> str:
    """What Zoo's file in another precision says about how it was made."""
    kept = model.require_manifest("bench").variants[0]
    return kept["refused"] or f"{kept['layers_kept']} layers in fp32"


class _Reader(CalibrationDataReader):
    def __init__(self, tensors: Sequence[NDArray[np.float32]]) -> None:
        self._left = iter(tensors)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        tensor = next(self._left, None)
        return None if tensor is None else {INPUT: tensor}


def export_zoo(subject: Subject, out: Path, precision: Any) -> OnnxModel:
    """The file that `zoo export --precision` writes."""
    options = ExportOptions(precision=precision, device="cpu", threads=1)
    export(subject.run, out, catalogue=Catalogue.installed(), progress=Silent(), options=options)
    return OnnxModel(out, device="cpu", threads=1)


def export_plain(subject: Subject, out: Path) -> None:
    """The network alone, as the exporter writes it when nothing is asked of it."""
    example = torch.from_numpy(subject.calibration[0].repeat(2, 0))
    shapes = ({0: torch.export.Dim("batch")},)
    with _silence():
        torch.onnx.export(subject.model, (example,), out, input_names=[INPUT], dynamic_shapes=shapes, dynamo=True)


def quantise_plain(plain: Path, out: Path, calibration: Sequence[NDArray[np.float32]]) -> None:
    """What ONNX Runtime's quantiser makes of a plain file when nothing is asked of it."""
    with _silence():
        quantize_static(plain, out, _Reader(calibration))


def open_plain(path: Path) -> Call:
    """A call of a plain file on one thread: prepared tensors in, its first output out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda tensor: session.run(None, {INPUT: tensor})[0]  # type: ignore[no-any-return]


def judge(
    subject: Subject, *, zoo: Mapping[str, OnnxModel], plain: Mapping[str, Call], seconds: float
) -> dict[str, Judged]:
    """Answers of all files to the test images, and their times in turn, `seconds` for each at each batch size.

    Zoo's files take uint8 images, of the network's own size where they are timed; plain ones take tensors that were
    prepared before.
    """
    tensors = [_prepared(subject.model, image) for image in subject.images]
    answers = {
        **{name: file.of_images(subject.images, ["probabilities"], 1)[0] for name, file in zoo.items()},
        **{name: np.concatenate([call(tensor) for tensor in tensors]) for name, call in plain.items()},
    }
    sized = [_prepared_pixels(subject.model, image) for image in subject.images[: max(_BATCHES)]]
    timings: dict[str, dict[int, Timing]] = {name: {} for name in answers}
    for batch in _BATCHES:
        feeds, prepared = {"image": np.concatenate(sized[:batch])}, np.concatenate(tensors[:batch])
        calls: list[Callable[[], object]] = [partial(file.run, feeds, ["probabilities"]) for file in zoo.values()]
        calls += [partial(call, prepared) for call in plain.values()]
        for name, timing in zip(answers, take_turns(calls, seconds=seconds), strict=True):
            timings[name][batch] = timing
    return {name: Judged(labels=answers[name].argmax(1), timings=timings[name]) for name in answers}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


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
