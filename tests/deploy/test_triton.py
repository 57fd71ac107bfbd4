"""What Triton and KServe load: their own readers take it, and the model answers as it did."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from google.protobuf import text_format
from helpers import SHAPES
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from zoo.artifacts.files import sha256_file
from zoo.deploy import folder as deploy_folder
from zoo.deploy.triton import deploy_triton
from zoo.errors import ModelError, UsageError
from zoo.nn.preprocess import Preprocess
from zoo.runtime.golden import golden_image
from zoo.specs import ImageInput

Zoo = Callable[..., subprocess.CompletedProcess[str]]

_NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


def _config(folder: Path) -> Any:
    """The configuration as Triton's own protobuf classes read it."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def _plain(path: Path, inputs: Mapping[str, tuple[int, list[Any]]]) -> Path:
    """A model that gives each input back as `NAME_out`."""
    values = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    outs = [helper.make_tensor_value_info(f"{name}_out", *each) for name, each in inputs.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    graph = helper.make_graph(nodes, "plain", values, outs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _answers_fit(folder: Path, config: Any, original: Path) -> None:
    """The deployed model takes what the configuration declares, gives what it declares, and answers as the original."""
    sessions = [
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (folder / "1/model.onnx", original)
    ]
    random = np.random.default_rng(0)
    for batch in (1, 3, config.max_batch_size):
        feeds = {
            tensor.name: random.integers(0, 256, (batch, *tensor.dims)).astype(_NUMPY[_type(tensor)])
            for tensor in config.input
        }
        names = [tensor.name for tensor in config.output]
        answers, expected = (session.run(names, feeds) for session in sessions)
        for tensor, answer, other in zip(config.output, answers, expected, strict=True):
            assert answer.dtype == _NUMPY[_type(tensor)]
            assert answer.shape == (batch, *tensor.dims)
            assert np.array_equal(answer, other)


def _type(tensor: Any) -> str:
    return str(tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name)


def test_an_exported_model(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("deploy", "triton", model, "-o", "models", "--max-batch", 5, "--json")
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)
    folder = tmp_path / "models" / "shapes"
    assert {tmp_path / file for file in result["files"]} == {
        *(folder / name for name in ("1/model.onnx", "config.pbtxt", "labels.txt"))
    }
    assert result["next"] == "tritonserver --model-repository models"
    assert sha256_file(folder / "1/model.onnx") == sha256_file(model)
    assert (folder / "labels.txt").read_text().splitlines() == list(SHAPES)

    config = _config(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("shapes", "onnxruntime", 5)
    assert config.HasField("dynamic_batching")
    assert [(each.name, list(each.dims)) for each in config.input] == [("image", [32, 32, 3])]
    assert [(each.name, each.label_filename) for each in config.output] == [("probabilities", "labels.txt")]
    assert [each.batch_size for each in config.model_warmup] == [1, 5]
    assert all(list(each.inputs["image"].dims) == [32, 32, 3] for each in config.model_warmup)
    _answers_fit(folder, config, model)

    words = zoo("deploy", "triton", model, "-o", "models").stdout
    assert "image: UINT8 [32, 32, 3], up to 32 in a batch" in words


def test_images_of_the_declared_size_are_cut_out_without_resizing() -> None:
    given = ImageInput(height=224, width=192, crop_fraction=0.875)
    assert given.resized == (256, 219)
    pixels = golden_image(*given.resized, 3)
    cut = Preprocess(given).resize_and_crop(torch.from_numpy(pixels)[None])
    # 219 - 192 = 27 columns go: 13.5 on each side, of which the half goes to the even neighbour.
    assert np.array_equal(cut[0].permute(1, 2, 0).numpy(), pixels[16 : 16 + 224, 14 : 14 + 192])


def test_any_onnx_file(tensor_model: Path, tmp_path: Path) -> None:
    batched = {
        "ids": (TensorProto.INT64, ["n"]),
        "text": (TensorProto.STRING, ["n", 2]),
        "free": (TensorProto.FLOAT, ["n", "m", 4]),
    }
    fixed = {"x": (TensorProto.FLOAT, [1, 3]), "one": (TensorProto.FLOAT, [])}
    paths = [tensor_model, _plain(tmp_path / "batched.onnx", batched), _plain(tmp_path / "a fixed one.onnx", fixed)]
    for path in paths:
        deploy_triton(path, tmp_path / "models", max_batch=8)
    plain, rows, whole = (_config(tmp_path / "models" / path.stem) for path in paths)

    assert plain.max_batch_size == 8
    assert [list(each.dims) for each in plain.input] == [[3], [3]]
    assert not any(each.label_filename for each in plain.output)
    assert not (tmp_path / "models" / "plain" / "labels.txt").exists()
    _answers_fit(tmp_path / "models" / "plain", plain, tensor_model)

    assert [(_type(each), list(each.dims), each.HasField("reshape")) for each in rows.input] == [
        ("TYPE_INT64", [1], True),  # Triton knows no tensor of a batch axis alone
        ("TYPE_STRING", [2], False),
        ("TYPE_FP32", [-1, 4], False),
    ]
    assert not rows.model_warmup  # nobody knows what to warm it up with

    assert (whole.name, whole.max_batch_size, whole.HasField("dynamic_batching")) == ("a fixed one", 0, False)
    assert [list(each.dims) for each in whole.input] == [[1, 3], [1]]
    assert [each.batch_size for each in whole.model_warmup] == [1]


def test_a_first_axis_that_is_none_of_a_batch(tensor_model: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("deploy", "triton", tensor_model, "-o", "models", "--max-batch", 0)
    assert "a: FP32 [any, 3], no batches" in done.stdout
    assert _config(tmp_path / "models/plain").max_batch_size == 0


def test_what_cannot_be_served(tmp_path: Path) -> None:
    half = _plain(tmp_path / "half.onnx", {"x": (TensorProto.BFLOAT16, ["n"])})
    with pytest.raises(ModelError, match=r"x is tensor\(bfloat16\), which Triton lacks"):
        deploy_triton(half, tmp_path / "models", max_batch=1)
    whole = onnx.load(_plain(tmp_path / "x.onnx", {"x": (TensorProto.FLOAT, ["n", 1024])}))
    whole.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1024, np.float32), "w"))
    whole.graph.node[0].CopyFrom(helper.make_node("Mul", ["x", "w"], ["x_out"]))
    onnx.save(whole, tmp_path / "split.onnx", save_as_external_data=True, location="split.data")
    with pytest.raises(ModelError, match=r"weights in files beside it: .*split\.onnx; save it as one file"):
        deploy_triton(tmp_path / "split.onnx", tmp_path / "models", max_batch=1)
    assert not list((tmp_path / "models").iterdir())
    odd = half.rename(tmp_path / "two\nlines.onnx")
    with pytest.raises(UsageError, match=r"cannot be the name of a model: 'two\\nlines'; rename the file"):
        deploy_triton(odd, tmp_path / "models", max_batch=1)


def test_only_what_zoo_wrote_is_replaced(
    model: Path, tensor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    deploy_triton(tensor_model, models, max_batch=4)
    config = models / "plain" / "config.pbtxt"
    deploy_triton(tensor_model, models, max_batch=8)
    assert "max_batch_size: 8" in config.read_text()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(deploy_folder, "write_json", fail)
        with pytest.raises(OSError, match="No space"):
            deploy_triton(tensor_model, models, max_batch=2)
    assert "max_batch_size: 8" in config.read_text()
    assert [path.name for path in models.iterdir()] == ["plain"]

    config.write_text("mine")
    with pytest.raises(UsageError, match=r"not as `zoo deploy` wrote it: .*config\.pbtxt"):
        deploy_triton(tensor_model, models, max_batch=8)
    assert config.read_text() == "mine"
    config.unlink()
    (models / "plain" / "2").mkdir()
    (models / "plain" / "2" / "model.onnx").write_text("a newer version")
    with pytest.raises(UsageError, match=r"not as `zoo deploy` wrote it: .*2.model\.onnx"):
        deploy_triton(tensor_model, models, max_batch=8)
    (models / "shapes").mkdir()
    (models / "shapes" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not written by `zoo deploy`: .*shapes"):
        deploy_triton(model, models, max_batch=8)


# V1beta1InferenceService and V1beta1ModelSpec of KServe 0.21, with the fields that are used, and the names it admits.
_INFERENCE_SERVICE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}},
        },
        "spec": {
            "type": "object",
            "required": ["predictor"],
            "properties": {
                "predictor": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["modelFormat", "storageUri"],
                            "properties": {
                                "modelFormat": {
                                    "type": "object",
                                    "required": ["name"],
                                    "properties": {"name": {"const": "onnx"}, "version": {"type": "string"}},
                                },
                                "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                                "runtime": {"type": "string"},
                                "runtimeVersion": {"type": "string"},
                                "storageUri": {"type": "string"},
                            },
                        }
                    },
                }
            },
        },
    },
}


def test_kserve(model: Path, zoo: Zoo, tmp_path: Path) -> None:
    renamed = tmp_path / "2 Shapes_v1.onnx"
    renamed.symlink_to(model)
    done = zoo("deploy", "kserve", renamed, "-o", "out", "--storage-uri", "s3://bucket/mo#dels: x", "--json")
    assert done.returncode == 2
    done = zoo("deploy", "kserve", renamed, "-o", "out", "--storage-uri", "s3://bucket/models", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["next"].endswith("then: kubectl apply -f out/model-2-shapes-v1.yaml")
    service = yaml.safe_load((tmp_path / "out" / "model-2-shapes-v1.yaml").read_text())
    Draft202012Validator(_INFERENCE_SERVICE).validate(service)
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/models"
    assert service["spec"]["predictor"]["model"]["protocolVersion"] == "v2"

    deploy_triton(renamed, tmp_path / "models", max_batch=32)
    uploaded, repository = tmp_path / "out" / "models", tmp_path / "models"
    files = {path.relative_to(uploaded): path.read_bytes() for path in uploaded.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(repository): path.read_bytes()
        for path in repository.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
