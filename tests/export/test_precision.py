"""Other precisions: made with training images, judged with validation images, kept only where they are worth it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import make_folder
from torch import nn

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.errors import DataError
from zoo.export import judge, layers
from zoo.export.evidence import Evidence, gather_evidence
from zoo.export.graph import to_onnx
from zoo.export.half import to_half
from zoo.export.int8 import Quantiser
from zoo.export.run import ExportOptions, export
from zoo.finetune.resolve import Environment
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime import timing
from zoo.runtime.model import OnnxModel
from zoo.serve.repository import Place
from zoo.serve.request import ServeRequest
from zoo.serve.run import load_model
from zoo.serve.settings import ModelSettings
from zoo.specs import ImageInput


@pytest.fixture(scope="module")
def evidence(run: Path) -> Evidence:
    data = DataSet.from_json(RunFolder.open(run).read("dataset"))
    return gather_evidence(data, data.classes, side=32)


@pytest.fixture(scope="module")
def proto(model: Path) -> onnx.ModelProto:
    found = onnx.load(model)
    del found.metadata_props[:]
    return found


def _export(run: Path, out: Path, environment: Environment, **options: Any) -> OnnxModel:
    found = ExportOptions(device="cpu", threads=1, **options)
    result = export(run, out, catalogue=environment.catalogue, progress=Silent(), options=found)
    loaded = OnnxModel(out, device="cpu", threads=1)
    assert loaded.require_manifest("test").precision == result["precision"]
    return loaded


def test_int8_is_kept_where_it_is_faster_and_as_good(
    run: Path, model: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The network is so small that time says nothing.
    monkeypatch.setattr(layers, "_FIRST", (0, 1))
    monkeypatch.setattr(judge, "_GAIN", 0)
    monkeypatch.setattr(judge, "_SECONDS", 0.01)
    monkeypatch.setattr(timing, "_WARM_SECONDS", 0.01)
    found = _export(run, tmp_path / "small.onnx", environment, precision="int8", max_loss=1)
    [tried] = found.require_manifest("test").variants
    assert (found.require_manifest("test").precision, tried["refused"]) == ("int8", None)
    assert tried["agreement"] >= 0.99
    assert tried["loss95"][0] <= tried["loss"] <= tried["loss95"][1]
    assert set(tried["faster"]) == {"1", "8"}
    assert found.path.stat().st_size < model.stat().st_size
    proto = onnx.load(found.path)
    onnx.checker.check_model(proto)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 20
    assert (proto.ir_version, "QuantizeLinear" in {node.op_type for node in proto.graph.node}) == (10, True)
    # Answers are those that the file itself gave where it was made: it is served.
    load_model(
        Place("found", 1, found.path),
        ServeRequest(models=(found.path,), device="cpu", settings=ModelSettings(threads=1)),
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("_GAIN", 1e6, "not faster here: .* at batch 1, .* at batch 8"), ("AGREEMENT", 1.01, "get the same label, 101%")],
)
def test_what_is_not_worth_it_is_refused_with_the_reason(
    name: str,
    value: float,
    why: str,
    run: Path,
    environment: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "_FIRST", (0, 1))
    monkeypatch.setattr(judge, "_GAIN", 0)
    monkeypatch.setattr(judge, "_SECONDS", 0.01)
    monkeypatch.setattr(timing, "_WARM_SECONDS", 0.01)
    monkeypatch.setattr(judge, name, value)
    found = _export(run, tmp_path / "model.onnx", environment, precision="auto").require_manifest("test")
    assert found.precision == "fp32"
    assert [tried["precision"] for tried in found.variants] == ["int8", "fp16"]
    for tried in found.variants:
        assert re.search(why, tried["refused"])


def test_nothing_is_kept_unjudged(
    run: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one layer in fp32 costs hardly any time, but just makes it too slow to be worth it."""

    def timed(self: judge.Judge, variant: judge.Variant) -> judge.Variant:
        gain = 1.03 if variant.layers_kept else 1.08
        return replace(variant, faster={1: gain, 8: gain}, refused="not faster" if variant.layers_kept else None)

    monkeypatch.setattr(layers, "_FIRST", (0, 1))
    monkeypatch.setattr(judge.Judge, "timed", timed)
    monkeypatch.setattr(judge, "AGREEMENT", 1.01)
    found = _export(run, tmp_path / "model.onnx", environment, precision="int8").require_manifest("test")
    assert found.precision == "fp32"
    assert found.variants[0]["agreement"] is not None


def test_what_rounding_shifts_is_put_back(evidence: Evidence, tmp_path: Path) -> None:
    """Differences of large sums: what rounding takes off the terms does not cancel where the terms do."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 1)
    with torch.no_grad():
        first.bias += 3
        second.weight -= second.weight.mean(1, keepdim=True)
        second.weight *= 20
    layers = nn.Sequential(first, nn.ReLU(), second)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(stages=[layers], pool=pool, source_head=None)
    proto = to_onnx(TransferModel(backbone=backbone, head=nn.Linear(8, 3), input_spec=ImageInput(height=32, width=32)))
    quantiser = Quantiser(proto, evidence.calibration, tmp_path, activations="uint8", threads=1)
    images = evidence.calibration[:20]
    exact = _answers(proto, images, tmp_path)
    put_back = np.abs(_answers(quantiser.quantise(), images, tmp_path) - exact).mean()
    quantiser._shifts = {}
    assert put_back < 0.5 * np.abs(_answers(quantiser.quantise(), images, tmp_path) - exact).mean()


def test_half(proto: onnx.ModelProto, evidence: Evidence, tmp_path: Path) -> None:
    half = to_half(proto)
    onnx.checker.check_model(half)
    assert half.ByteSize() < 0.7 * proto.ByteSize()
    images = evidence.calibration[:8]
    assert np.abs(_answers(half, images, tmp_path) - _answers(proto, images, tmp_path)).max() < 0.02


def _answers(proto: onnx.ModelProto, images: Any, folder: Path) -> np.ndarray:
    path = folder / "answers.onnx"
    path.write_bytes(proto.SerializeToString())
    [found] = OnnxModel(path, device="cpu", threads=1).of_images(images, ["probabilities"])
    return found


def test_images_that_are_missing(run: Path, dataset: Path, environment: Environment, tmp_path: Path) -> None:
    data = DataSet.from_json(RunFolder.open(run).read("dataset"))
    with pytest.raises(DataError, match=r"no validation images: .*give --data"):
        gather_evidence(data.without({sample.file for sample in data.of("val")}), data.classes, side=32)
    rings = {sample.file for sample in data.of("train") if data.classes[sample.label] == "rings"}
    with pytest.raises(DataError, match="no training image of class 'rings'"):
        gather_evidence(data.without(rings), data.classes, side=32)
    moved = shutil.copytree(dataset, tmp_path / "moved")
    other = open_dataset(str(moved), cache=tmp_path, progress=Silent())
    shutil.rmtree(moved)
    with pytest.raises(DataError, match=r"is not there any more"):
        gather_evidence(other, data.classes, side=32)
    make_folder(tmp_path / "named", 12, 2)
    for split in ("train", "test"):
        (tmp_path / "named" / split / "dots").rename(tmp_path / "named" / split / "spots")
    named = open_dataset(str(tmp_path / "named"), cache=tmp_path, progress=Silent())
    with pytest.raises(DataError, match="classes the model does not know: spots"):
        gather_evidence(named, data.classes, side=32)
