"""`zoo finetune --cascade chain`, and all that takes its run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ask_server, real_weights
from safetensors.torch import load_file, save_file

from zoo.artifacts.manifest import INPUT, OUTPUT
from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.data.images import decode_image
from zoo.data.splits import open_dataset
from zoo.errors import UsageError, WeightsError
from zoo.evaluate import evaluate
from zoo.export.answering import Answering
from zoo.export.run import export
from zoo.finetune.joining import join_backbones
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, resolve
from zoo.finetune.run import finetune, resume
from zoo.nn.build import build_backbone, load_run_model
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel

Zoo = Callable[..., subprocess.CompletedProcess[str]]

BOTH = ("tiny/glyphnet", "timm/test_resnet")


@pytest.fixture(scope="module")
def untrained(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the second backbone."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    state = environment.catalogue.find_backbone(BOTH[1])[0].spec.build().state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def request_(untrained: str, dataset: Path) -> FinetuneRequest:
    return FinetuneRequest(
        data=str(dataset),
        backbone=" -> ".join(BOTH),
        weights=f"glyphs_v1 -> {untrained}",
        input_size=64,
        val_share=0.3,
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def chained(request_: FinetuneRequest, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few epochs of everything behind the first backbone."""
    out = tmp_path_factory.mktemp("chained") / "run"
    finetune(replace(request_, epochs=3), out, environment, Silent())
    return out


def test_where_backbones_join_is_measured_and_kept(chained: Path, environment: Environment) -> None:
    run = RunFolder.open_complete(chained)
    record, result = run.read_model(), run.read("result")
    tried = {row["backbone"]: row["accuracy"] for row in run.read_decisions()["where backbones join"]}
    joined = {name: value for name, value in tried.items() if "->" in name}
    assert set(BOTH) <= set(tried)
    assert joined[record.backbone] > max(joined.values()) - 0.003
    assert result["backbone"] == record.backbone == run.read("request")["request"]["backbone"]
    assert record.weights.startswith("glyphs_v1 -> file:")
    assert record.distribution.count(" -> ") == 1
    assert record.input.height == 64
    # What comes before the last backbone stays as it was.
    model, _ = load_run_model(run, environment.catalogue)
    pretrained = environment.catalogue.find_backbone(BOTH[0])[0].spec
    assert result["strategy"] == "partial"
    stages = result["plan"]["freeze_stages"]
    assert 0 < stages < len(model.backbone.stages)
    assert record.backbone.startswith(f"{BOTH[0]}[:{stages}]")
    whole = next(load_file(path) for path in (environment.cache / "composites").rglob("weights.safetensors"))
    own = {name: value for name, value in model.backbone.state_dict().items() if int(name.split(".")[1]) < stages}
    assert own
    assert all(torch.equal(value, whole[name]) for name, value in own.items())
    assert len(pretrained.stages) >= stages


def test_two_halves_of_one_network_make_the_whole(untrained: str, environment: Environment, dataset: Path) -> None:
    """Joined to a twin with the same weights, a backbone is itself again: the adapter has nothing to change."""
    spec = environment.catalogue.find_backbone(BOTH[1])[0].spec
    twin = replace(environment.catalogue.find_plugin("timm"), name="twin", backbones=[spec])
    catalogue = Catalogue([*environment.catalogue.plugins, twin])
    request = FinetuneRequest(
        data=str(dataset),
        backbone=f"{BOTH[1]}[:2] -> twin/{spec.name}[2:]",
        weights=f"{untrained} -> {untrained}",
        strategy="probe",
        device="cpu",
        threads=1,
    )
    parts = resolve(request, replace(environment, catalogue=catalogue), Silent())
    data = open_dataset(str(dataset), cache=environment.cache, progress=Silent())
    _, joined, _ = join_backbones(request, parts, data, replace(environment, catalogue=catalogue), Silent())
    whole = build_backbone(joined.backbone.id, joined.backbone.spec, joined.weights).eval()
    alone = build_backbone(BOTH[1], spec, Path(untrained)).eval()
    images = torch.randn(4, 3, spec.input.height, spec.input.width)
    with torch.no_grad():
        difference = (whole(images) - alone(images)).abs().max() / alone(images).abs().max()
    assert difference < 1e-2


def test_a_run_goes_on_to_the_same_weights(
    chained: Path, request_: FinetuneRequest, environment: Environment, tmp_path: Path
) -> None:
    """Also where the cache has been emptied in between."""
    copy = tmp_path / "again"
    shutil.copytree(chained, copy)
    for name in ("result.json", "weights.safetensors", "predictions.npz", "metrics.jsonl"):
        (copy / name).unlink()
    shutil.rmtree(copy / "checkpoint")
    (copy / "checkpoint").mkdir()
    shutil.rmtree(environment.cache / "composites")
    resume(copy, environment, Silent())
    first, second = (load_file(path / "weights.safetensors") for path in (chained, copy))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_verb_takes_it(chained: Path, environment: Environment, tmp_path: Path, zoo: Zoo, dataset: Path) -> None:
    path = tmp_path / "chain.onnx"
    made = export(chained, path, catalogue=environment.catalogue, progress=Silent())
    assert made["parity"]["max_abs"] < 1e-4
    found = [
        evaluate(
            target,
            str(dataset),
            split="test",
            catalogue=environment.catalogue,
            cache=environment.cache,
            progress=Silent(),
            device="cpu",
        )["accuracy"]
        for target in (chained, path)
    ]
    assert found == [RunFolder.open_complete(chained).read("result")["test_accuracy"]] * 2
    rows = json.loads(zoo("bench", path, "--batch", "2", "--seconds", "0.1", "--json").stdout)["rows"]
    first, second, rest = rows[0]["branches"].items()
    assert first[0].startswith(f"0: {BOTH[0]}[:")
    assert second[0].startswith(f"1: {BOTH[1]}[")
    assert min(first[1], second[1]) > rest[1] >= 0
    assert rows[0]["cascade"] == "chain"
    assert zoo("report", chained, "--out", tmp_path / "chain.html").returncode == 0
    page = (tmp_path / "chain.html").read_text()
    for words in ("What is chained", ": kept", "weights", BOTH[1]):
        assert words in page


def test_parity(chained: Path, environment: Environment, tmp_path: Path, dataset: Path) -> None:
    export(chained, tmp_path / "chain.onnx", catalogue=environment.catalogue, progress=Silent())
    model = OnnxModel(tmp_path / "chain.onnx", device="cpu")
    answering = Answering([load_run_model(RunFolder.open_complete(chained), environment.catalogue)[0]], None)
    files = sorted(dataset.rglob("*.png"))
    shapes = [decode_image(file) for file in files]
    images = np.stack([image[:40, :48] for image in (shapes * 3)[:33]])
    for batch in (1, 2, 3, 8, 33):
        np.testing.assert_allclose(
            model.run({INPUT: images[:batch]}, [OUTPUT])[0], answering(images[:batch]), atol=1e-4
        )
    served = ask_server(tmp_path / "chain.onnx", images[:3], environment.cache)
    np.testing.assert_allclose(served, answering(images[:3]), atol=1e-4)


def test_on_the_command_line(untrained: str, dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ["--backbone", BOTH[0], "--backbone", BOTH[1], "--weights", "glyphs_v1", "--weights", untrained]
    common = ["--input-size", "64", "--device", "cpu", "--threads", "1", "--cascade", "chain"]
    done = zoo("finetune", dataset, *words, *common, "--strategy", "probe", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "right about training images left out one by one: tiny/glyphnet" in done.stderr
    plan = zoo("finetune", dataset, *words, *common, "--epochs", "1", "--dry-run")
    assert "before the last backbone of the chain stay as they are" in plan.stdout
    one = zoo("finetune", dataset, *words[:2], "--cascade", "chain")
    assert "--cascade chain needs two backbones at least" in one.stderr
    twice = zoo("finetune", dataset, "--backbone", BOTH[0], "--backbone", BOTH[0], "--cascade", "chain")
    assert "circular chain: tiny/glyphnet -> tiny/glyphnet" in twice.stderr


def test_it_is_trained_from_scratch_where_it_says_where_it_joins(
    request_: FinetuneRequest, environment: Environment, tmp_path: Path
) -> None:
    name = f"{BOTH[0]}[:3] -> {BOTH[1]}[2:]"
    request = replace(request_, backbone=name, weights="none", strategy="scratch", epochs=1)
    result = finetune(request, tmp_path / "run", environment, Silent())
    assert result["backbone"] == name
    assert RunFolder.open_complete(tmp_path / "run").read_model().weights == "none -> none"


def test_bad_input_is_refused(
    request_: FinetuneRequest, environment: Environment, vit_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for request, error, words in (
        (replace(request_, weights="glyphs_v1"), UsageError, "for 2 backbones; give one for each"),
        (replace(request_, weights="glyphs_v1 -> gone.pth"), WeightsError, "no such weights file: gone.pth"),
        (replace(request_, weights=None, strategy="scratch"), UsageError, "chosen by their weights; give stages"),
        (
            replace(request_, backbone="tiny/glyphnet -> timm/test_vit", weights=f"glyphs_v1 -> {vit_weights}"),
            UsageError,
            "timm/test_vit takes 160 x 160 only",
        ),
        (
            replace(
                request_,
                backbone="tiny/glyphnet -> timm/test_vit",
                weights=f"glyphs_v1 -> {vit_weights}",
                input_size=160,
            ),
            UsageError,
            "have no maps of the same stride",
        ),
    ):
        with pytest.raises(error, match=words):
            finetune(request, out, environment, Silent())
    assert not out.exists()


@pytest.mark.slow
def test_a_first_and_a_third_party_backbone(shared: Path, zoo: Zoo, tmp_path: Path) -> None:
    """Real weights, the whole way, beside its twin from scratch."""
    words = ["--backbone", "torchvision/squeezenet1_1[:4] -> torchvision/mobilenet_v2[4:]", "--input-size", "64"]
    weights = " -> ".join(real_weights(shared, name) for name in ("squeezenet1_1", "mobilenet_v2"))
    data = shared / "data" / "sign_digits10.zip"
    out = tmp_path / "run"
    done = zoo(
        *("finetune", data, *words, "--weights", weights, "--shots", "20", "--epochs", "2", "--threads", "1"),
        *("--compare-scratch", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    result = RunFolder.open_complete(out).read("result")
    assert result["test_accuracy"] > 0.5
    assert RunFolder.open_complete(out / "scratch").read_model().backbone == result["backbone"]
    assert zoo("export", out, "-o", tmp_path / "chain.onnx").returncode == 0
