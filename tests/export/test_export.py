"""One file that answers as the trained model does, without traces of the machine that made it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import SHAPES, draw
from torch import nn

from zoo.artifacts.runs import RunFolder
from zoo.errors import ModelError, ParityError, RunError, UsageError
from zoo.export import parity
from zoo.export import run as export_run
from zoo.export.outputs import Outputs
from zoo.export.run import ExportOptions, check_size, export
from zoo.finetune.resolve import Environment
from zoo.nn.backbone import Backbone
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.golden import golden_image
from zoo.runtime.model import OnnxModel
from zoo.specs import ImageInput


def test_manifest_and_graph(model: Path, run: Path) -> None:
    proto = onnx.load(model, load_external_data=False)
    onnx.checker.check_model(proto)
    assert proto.ir_version == 10
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 20
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    loaded = OnnxModel(model, device="cpu")
    manifest = loaded.require_manifest("test")
    assert manifest.labels == tuple(sorted(SHAPES))
    assert [(t.name, t.type, t.shape) for t in loaded.inputs] == [("image", "tensor(uint8)", (-1, -1, -1, 3))]
    assert [(t.name, t.type, t.shape) for t in loaded.outputs] == [("probabilities", "tensor(float)", (-1, 3))]
    assert manifest.parity["max_abs"] <= 1e-4
    assert manifest.parity["batches"] == [1, 2, 3, 8]
    assert manifest.run_weights_sha256 == RunFolder.open(run).read("result")["weights_sha256"]


def test_no_paths_no_stack_traces_one_file(model: Path, run: Path) -> None:
    content = model.read_bytes()
    for trace in (b"site-packages", b'File "', b"stack_trace", str(Path.cwd()).encode(), str(run).encode()):
        assert trace not in content
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_any_size_and_batch(model: Path) -> None:
    loaded = OnnxModel(model, device="cpu")
    images = [draw("rings", 7, size) for size in ((40, 48), (1, 1), (300, 7), (40, 48), (200, 333))]
    together = loaded.of_images(images, ["probabilities"])[0]
    assert np.allclose(together.sum(1), 1, atol=1e-5)
    for image, row in zip(images, together, strict=True):
        assert np.allclose(loaded.of_images([image], ["probabilities"])[0], row, atol=1e-6)


def test_golden_answers(model: Path) -> None:
    loaded = OnnxModel(model, device="cpu")
    for golden in loaded.require_manifest("test").golden:
        image = golden_image(golden.height, golden.width, golden.seed)
        answer = loaded.of_images([image], ["probabilities"])[0]
        assert np.allclose(answer, golden.probabilities, atol=1e-4)


def test_outputs_beside_probabilities(run: Path, environment: Environment, tmp_path: Path) -> None:
    path = tmp_path / "more.onnx"
    wanted = Outputs.parse("probabilities,label,top2,embedding")
    export(run, path, catalogue=environment.catalogue, progress=Silent(), options=ExportOptions(outputs=wanted))
    onnx.checker.check_model(onnx.load(path))
    model = OnnxModel(path, device="cpu")
    shapes = {tensor.name: tensor.shape for tensor in model.outputs}
    assert list(shapes) == ["probabilities", "embedding", "label", "top_probabilities", "top_labels"]
    images = np.stack([draw(shape, 5) for shape in SHAPES])
    probabilities, embedding, label, best, numbers = model.run({"image": images})
    assert embedding.shape == (3, shapes["embedding"][1])
    assert (label == probabilities.argmax(1)).all()
    assert (numbers == np.argsort(-probabilities)[:, :2]).all()
    assert (best == -np.sort(-probabilities)[:, :2]).all()
    for text, words in (("labels", "unknown output: 'labels'"), ("top4", "top4: there are 3 classes")):
        with pytest.raises(UsageError, match=words):
            Outputs.parse(text).check(3, cascade=False)


def test_an_export_is_the_same_file_each_time(model: Path, run: Path, environment: Environment, tmp_path: Path) -> None:
    export(run, tmp_path / "again.onnx", catalogue=environment.catalogue, progress=Silent())
    assert (tmp_path / "again.onnx").read_bytes() == model.read_bytes()


def test_a_model_that_answers_otherwise_is_refused(
    run: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(trained: Any, **options: Any) -> onnx.ModelProto:
        proto = to_onnx(trained, **options)
        weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(weight.raw_data, np.float32) * np.float32(1.05)
        weight.raw_data = values.tobytes()
        return proto

    to_onnx = export_run.to_onnx
    monkeypatch.setattr(export_run, "to_onnx", spoilt)
    with pytest.raises(ParityError, match=r"differs from the trained one by .* nothing was written"):
        export(run, tmp_path / "bad.onnx", catalogue=environment.catalogue, progress=Silent())
    assert not list(tmp_path.iterdir())


def test_parity_is_measured_from_jpeg_bytes() -> None:
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in parity.synthetic_jpegs())


def test_a_model_that_no_file_holds_is_refused_before_anything_is_done() -> None:
    spec = ImageInput(height=32, width=32)
    stage, pool = nn.Linear(30_000, 30_000, device="meta"), nn.Identity()
    model = TransferModel(
        backbone=Backbone(stages=[stage], pool=pool, source_head=None), head=nn.Linear(4, 2), input_spec=spec
    )
    with pytest.raises(ModelError, match=r"model too large for one file: 3,600,\d+,\d+ bytes"):
        check_size([model])


def test_files_that_are_not_ours_are_left_alone(run: Path, environment: Environment, tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_text("my thesis")
    with pytest.raises(ModelError, match=r"not a Zoo model: .*choose another -o"):
        export(run, other, catalogue=environment.catalogue, progress=Silent())
    assert other.read_text() == "my thesis"
    with pytest.raises(ModelError, match="no such folder"):
        export(run, tmp_path / "no" / "model.onnx", catalogue=environment.catalogue, progress=Silent())


def test_unfinished_and_damaged_runs(run: Path, environment: Environment, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"weights of .* do not fit"):
        export(copy, tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())
    (copy / "result.json").unlink()
    with pytest.raises(RunError, match="run is not complete"):
        export(copy, tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())
    with pytest.raises(RunError, match="not a run folder"):
        export(tmp_path, tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())
