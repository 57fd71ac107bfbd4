"""Several runs in one file: what they have in common is there once, and each answers as it does alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import SHAPES, draw
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file

from zoo.artifacts.manifest import METADATA_KEY
from zoo.artifacts.runs import RunFolder
from zoo.artifacts.seal import ONNX_KEY, UNSEALED, seal
from zoo.errors import RunError, UsageError
from zoo.export.heads import parse_heads
from zoo.export.outputs import Outputs
from zoo.export.run import ExportOptions, export
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.progress import Silent
from zoo.report.card import write_card
from zoo.runtime.model import OnnxModel
from zoo.serve.repository import Place
from zoo.serve.request import ServeRequest
from zoo.serve.run import load_model
from zoo.serve.settings import ModelSettings
from zoo.serving.protocol import Requests, build_response, model_metadata

Zoo = Callable[..., subprocess.CompletedProcess[str]]

IMAGES = np.stack([draw(shape, seed) for shape in SHAPES for seed in range(4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs and models of this module are."""
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def forms(dataset: Path, folder: Path) -> Path:
    """Images with other labels than `dataset`: two of them."""
    for split in ("train", "test"):
        for shape, form in (("bars", "straight"), ("rings", "curved")):
            shutil.copytree(dataset / split / shape, folder / "forms" / split / form)
    return folder / "forms"


@pytest.fixture(scope="module")
def train(forms: Path, folder: Path, environment: Environment) -> Callable[..., Path]:
    """Trains on `forms`."""

    def call(name: str, **options: Any) -> Path:
        request = FinetuneRequest(data=str(forms), backbone="tiny/glyphnet", device="cpu", threads=1, **options)
        finetune(request, folder / name, environment, Silent())
        return folder / name

    return call


@pytest.fixture(scope="module")
def form(train: Callable[..., Path]) -> Path:
    """A probe on the backbone of `run`."""
    return train("form", strategy="probe")


@pytest.fixture(scope="module")
def both(run: Path, form: Path, folder: Path, environment: Environment) -> Path:
    """`run` with the head `form`, and all outputs."""
    options = ExportOptions(outputs=Outputs.parse("label,top2,embedding"), heads={"form": form}, threads=1)
    export(run, folder / "both.onnx", catalogue=environment.catalogue, progress=Silent(), options=options)
    return folder / "both.onnx"


def _operators(model: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(model).graph.node)


def _weight_bytes(model: Path) -> int:
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(model).graph.initializer)


def test_two_probes_are_one_backbone(
    form: Path, model: Path, both: Path, folder: Path, environment: Environment
) -> None:
    alone = folder / "form.onnx"
    export(form, alone, catalogue=environment.catalogue, progress=Silent())
    onnx.checker.check_model(onnx.load(both))
    assert not onnx.load(both).graph.value_info
    # A second head, and what was asked for beside the probabilities of each.
    assert _operators(both) - _operators(model) == Counter(Gemm=1, Softmax=1, ArgMax=2, TopK=2)
    tensors = onnx.load(both).graph.initializer
    head = sum(numpy_helper.to_array(each).nbytes for each in tensors if each.name.startswith("head_form/"))
    top = np.array([2]).nbytes
    assert _weight_bytes(both) <= _weight_bytes(model) + head + top
    loaded = OnnxModel(both, device="cpu", threads=1)
    [told] = loaded.require_manifest("test").heads
    assert told.shared == pytest.approx(1 - head / _weight_bytes(alone), abs=1e-3)
    assert told.parity["max_abs"] <= 1e-4
    for output, path in (("probabilities", model), ("probabilities_form", alone)):
        [expected] = OnnxModel(path, device="cpu", threads=1).run({"image": IMAGES})
        np.testing.assert_array_equal(loaded.run({"image": IMAGES}, [output])[0], expected)


def test_runs_share_what_stayed_as_it_was(
    run: Path, form: Path, folder: Path, train: Callable[..., Path], zoo: Zoo
) -> None:
    """Three stages of four, nothing where all were trained, and of a probe at another size the weights."""
    heads = {
        "partial": shutil.copytree(form, folder / "partial"),
        "full": train("full", strategy="full", epochs=1),
        "small": train("small", strategy="probe", input_size=16),
    }
    # Training so short leaves a good probe as it is.
    state = load_file(heads["partial"] / "weights.safetensors")
    last = {name: tensor * 1.01 for name, tensor in state.items() if name.startswith("backbone.stages.3.")}
    save_file({**state, **last}, heads["partial"] / "weights.safetensors")
    out = folder / "four.onnx"
    words = [word for name, path in heads.items() for word in ("--head", f"{name}={path}")]
    done = zoo("export", run, "-o", out, *words, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    shared = {name: told["shared"] for name, told in result["heads"].items()}
    assert 0 <= shared["full"] < 0.01 < shared["partial"] < 0.9 < shared["small"] < 1, shared
    assert max(told["parity"]["max_abs"] for told in result["heads"].values()) <= 1e-4
    assert list(result["heads"]) == [head.name for head in OnnxModel(out, device="cpu").require_manifest("test").heads]


def test_outputs_of_a_head(both: Path) -> None:
    model = OnnxModel(both, device="cpu", threads=1)
    names = [tensor.name for tensor in model.outputs]
    own = ["probabilities", "embedding", "label", "top_probabilities", "top_labels"]
    assert names == own + [f"{name}_form" for name in own if name != "embedding"]
    found = dict(zip(names, model.run({"image": IMAGES}), strict=True))
    assert found["probabilities_form"].shape == (len(IMAGES), 2)
    assert (found["label_form"] == found["probabilities_form"].argmax(1)).all()
    assert (found["top_labels_form"][:, 0] == found["label_form"]).all()


def test_the_manifest_knows_where_a_head_comes_from(both: Path, model: Path, form: Path) -> None:
    [head] = OnnxModel(both, device="cpu").require_manifest("test").heads
    run = RunFolder.open(form)
    assert (head.name, head.labels, head.run_sha256) == ("form", ("curved", "straight"), run.digest)
    assert head.metrics["test_accuracy"] == run.read("result")["test_accuracy"]
    # An earlier Zoo refuses a file with heads it does not know, and takes one without.
    values = [
        json.loads(next(prop.value for prop in onnx.load(path).metadata_props if prop.key == METADATA_KEY))
        for path in (both, model)
    ]
    assert [(value["schema"], "heads" in value) for value in values] == [(3, True), (2, False)]


def test_every_command_knows_heads(both: Path, run: Path, form: Path, forms: Path, zoo: Zoo, tmp_path: Path) -> None:
    picture = tmp_path / "rings.png"
    Image.fromarray(draw("rings", 5)).save(picture)
    [answer] = json.loads(zoo("predict", both, picture, "--device", "cpu", "--json").stdout)
    assert (answer["label"], answer["heads"]["form"]["label"]) == ("rings", "curved")
    assert [best["label"] for best in answer["heads"]["form"]["top"]] == ["curved", "straight"]
    said = zoo("predict", both, picture, "--device", "cpu").stdout
    assert "form" in said
    assert "curved" in said

    by_run = json.loads(zoo("evaluate", form, forms, "--json", "--device", "cpu").stdout)
    by_head = json.loads(zoo("evaluate", both, forms, "--head", "form", "--json", "--device", "cpu").stdout)
    assert by_head["accuracy"] == by_run["accuracy"]
    for words in ((both, forms, "--head", "from"), (form, forms, "--head", "form")):
        assert zoo("evaluate", *words).returncode == 2
    assert "did you mean 'form'?" in zoo("evaluate", both, forms, "--head", "from").stderr

    for parent in (run, form):
        assert zoo("verify", both, "--run", parent, "--device", "cpu").returncode == 0
    write_card(both, tmp_path)
    assert "as `probabilities_form`, to each of 2 other labels: curved, straight." in (tmp_path / "both.md").read_text()


def test_the_server_names_labels_of_the_right_head(both: Path) -> None:
    served = load_model(
        Place("both", 1, both), ServeRequest(models=(both,), device="cpu", settings=ModelSettings(threads=1))
    )
    assert json.loads(model_metadata(served, ["1"])["properties"]["labels_form"]) == ["curved", "straight"]
    wanted = [{"name": name, "parameters": {"classification": 1}} for name in ("probabilities_form", "probabilities")]
    image = {"name": "image", "shape": [1, 40, 48, 3], "datatype": "UINT8", "data": draw("rings", 5).ravel().tolist()}
    request = Requests(served).read(json.dumps({"inputs": [image], "outputs": wanted}).encode(), None)
    answers = served.infer([request.feeds], request.head.names)
    body, _ = build_response(served, request, answers)
    labels = [output["data"][0].split(":")[2] for output in json.loads(body)["outputs"]]
    assert labels == ["curved", "rings"]


def test_a_head_that_answers_otherwise_is_noticed(both: Path, zoo: Zoo, tmp_path: Path) -> None:
    proto, other = onnx.load(both), tmp_path / "other.onnx"
    weights = [tensor for tensor in proto.graph.initializer if tensor.name.startswith("head_form/")]
    weight = max(weights, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(-1)).tobytes()
    next(prop for prop in proto.metadata_props if prop.key == ONNX_KEY).value = UNSEALED
    other.write_bytes(seal(proto.SerializeToString()))
    done = zoo("verify", other, "--device", "cpu", "--json")
    assert done.returncode == 8
    [wrong] = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert "in probabilities_form, allowed" in wrong["detail"]
    assert zoo("serve", other, "--port", "0", "--device", "cpu").returncode == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/colour"], "head without a run: 'runs/colour'; give NAME=RUN"),
        (["colour="], "head without a run"),
        (["=runs/colour"], "name of a head: ''; use letters"),
        (["2nd=runs/colour"], "name of a head: '2nd'; use letters"),
        (["a b=runs/colour"], "name of a head: 'a b'; use letters"),
        (["label=runs/colour"], "name of a head: 'label', which is an output"),
        (["a=runs/colour", "a=runs/other"], "two heads named 'a'"),
    ],
)
def test_names_that_no_head_can_have(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_heads(words)
    assert message in str(raised.value)


def test_what_cannot_be_a_head(run: Path, form: Path, environment: Environment, tmp_path: Path) -> None:
    def refused(first: Path, second: Path, **options: Any) -> str:
        wanted = ExportOptions(heads={"a": second}, **options)
        with pytest.raises((RunError, UsageError)) as raised:
            export(first, tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent(), options=wanted)
        return str(raised.value)

    unfinished, cascade = tmp_path / "unfinished", tmp_path / "cascade"
    shutil.copytree(form, unfinished)
    (unfinished / "result.json").unlink()
    assert "run is not complete" in refused(run, unfinished)
    shutil.copytree(run, cascade)
    for member in ("00", "01"):
        shutil.copytree(run, cascade / "members" / member)
    (cascade / "cascade.json").write_text(json.dumps({"kind": "fuse", "average": True}))
    assert "a cascade cannot be a head" in refused(run, cascade)
    assert "a cascade cannot have further heads" in refused(cascade, run)
    with pytest.raises(UsageError, match="precision of a file of several heads: int8; only fp32"):
        ExportOptions(heads={"a": form}, precision="int8")
    assert "output top3: there are 2 classes" in refused(run, form, outputs=Outputs(top=3))
    assert not (tmp_path / "m.onnx").exists()
