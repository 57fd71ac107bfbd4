"""`zoo finetune --cascade fuse`, and all that takes its run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_folder
from safetensors.torch import save_file

from zoo.artifacts.manifest import INPUT, OUTPUT
from zoo.artifacts.runs import RunFolder
from zoo.cascade.fuse import fuse
from zoo.cascade.selection import select
from zoo.data.images import decode_image
from zoo.data.splits import open_dataset
from zoo.errors import DataError, UsageError, WeightsError
from zoo.evaluate import evaluate
from zoo.export.answering import Answering
from zoo.export.run import export
from zoo.export.stitch import export_members, stitch
from zoo.finetune.joining import join_backbones
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment, resolve
from zoo.nn.build import build_backbone
from zoo.nn.cascade import Fusion, load_members
from zoo.nn.taps import PooledTaps, feature_widths, make_taps
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def untrained(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of random weights: each such backbone tells a little, and another one than the next."""
    files = {}
    for name in ("timm/test_vit", "timm/test_vit2"):
        torch.manual_seed(0)
        files[name] = str(tmp_path_factory.mktemp("weights") / f"{Path(name).name}.safetensors")
        state = environment.catalogue.find_backbone(name)[0].spec.build().state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, files[name])
    return files


def _requests(files: dict[str, str], **options: object) -> list[FinetuneRequest]:
    common = {"data": "builtin:digits", "shots": 40, "device": "cpu", "threads": 1} | options
    return [FinetuneRequest(backbone=name, weights=file, **common) for name, file in files.items()]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fused(untrained: dict[str, str], environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both as one run."""
    out = tmp_path_factory.mktemp("fused") / "both"
    fuse(_requests(untrained), out, environment, Silent())
    return out


def test_two_weak_backbones_are_better_together(fused: Path, untrained: dict[str, str]) -> None:
    result = RunFolder.open_complete(fused).read("result")
    alone = {probe["backbone"]: probe["test_accuracy"] for probe in result["probes"]}
    assert list(alone) == list(untrained)
    assert result["test_accuracy"] > max(alone.values()) + 0.01
    assert {way["method"] for way in result["methods"]} == {"single", "joint", "average", "stack"}
    losses = {way["method"]: way["val_loss"] for way in result["methods"]}
    assert result["method"] == min(losses, key=losses.__getitem__) != "single"
    assert sorted(result["backbone"].split(" + ")) == sorted(untrained)


@pytest.mark.slow
def test_run_and_model_are_evaluated_alike(fused: Path, environment: Environment, tmp_path: Path, zoo: Zoo) -> None:
    made = export(fused, tmp_path / "both.onnx", catalogue=environment.catalogue, progress=Silent())
    assert made["parity"]["max_abs"] < 1e-4
    found = [
        evaluate(
            target,
            "builtin:digits",
            split="test",
            catalogue=environment.catalogue,
            cache=environment.cache,
            progress=Silent(),
            device="cpu",
        )["accuracy"]
        for target in (fused, tmp_path / "both.onnx")
    ]
    assert found == [RunFolder.open_complete(fused).read("result")["test_accuracy"]] * 2
    rows = json.loads(zoo("bench", tmp_path / "both.onnx", "--batch", "2", "--seconds", "0.1", "--json").stdout)["rows"]
    assert {name.partition(": ")[2] for name in rows[0]["branches"]} >= {"timm/test_vit", "timm/test_vit2"}


@pytest.mark.slow
@pytest.mark.parametrize("average", [True, False])
def test_parity(average: bool, fused: Path, environment: Environment, tmp_path: Path) -> None:
    models = [model for model, _ in load_members(RunFolder.open_complete(fused), environment.catalogue)]
    fusion, path = Fusion(average=average), tmp_path / "both.onnx"
    path.write_bytes(stitch(export_members(models, fusion), fusion).SerializeToString())
    model, answering = OnnxModel(path, device="cpu"), Answering(models, fusion)
    folder = next(environment.cache.rglob("test"))
    images = np.stack([decode_image(file) for file in sorted(folder.rglob("*.png"))[::7][:33]])
    for batch in (1, 2, 3, 8, 33):
        pixels = images[:batch]
        np.testing.assert_allclose(model.run({INPUT: pixels}, [OUTPUT])[0], answering(pixels), atol=1e-4)


def test_its_page(fused: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("report", fused, "--out", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "both.html").read_text()
    for words in ("What is fused", "one linear head on the features of all", "--cascade fuse", "timm/test_vit2"):
        assert words in page


def test_what_tells_nothing_new_is_left_out(untrained: dict[str, str], dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    words = ["--backbone", "tiny/glyphnet", "--backbone", "timm/test_vit", "--weights", "glyphs_v1"]
    words += ["--weights", untrained["timm/test_vit"], "--cascade", "fuse", "--device", "cpu", "--out", "run"]
    done = zoo("finetune", dataset, *words, "--val-share", "0.3")
    assert done.returncode == 0, done.stderr
    assert "tiny/glyphnet alone: the others tell nothing that it does not" in done.stderr
    result = RunFolder.open_complete(tmp_path / "run").read("result")
    assert result["method"] == "single"
    assert result["backbone"] == "tiny/glyphnet"
    assert len(RunFolder.open_complete(tmp_path / "run").members) == 1
    assert zoo("export", tmp_path / "run", "-o", tmp_path / "run.onnx").returncode == 0


def test_selection_takes_what_tells_more_and_nothing_else() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (400,))
    bits = torch.stack([labels % 2, labels // 2], 1).float()
    noise = torch.randn(400, 3, 8)
    first = torch.cat([bits[:, :1] * 4, noise[:, 0]], 1)
    second = torch.cat([bits[:, 1:] * 4, noise[:, 1]], 1)
    features = [(noise[:, 2], [8]), (first, [9]), (first + 0.01, [9]), (second, [9])]
    chosen = select(features, labels, classes=4, seed=0)
    assert len(chosen) == 2
    assert 3 in chosen
    assert 0 not in chosen


@pytest.mark.slow
def test_only_what_is_fast_enough_is_asked(
    untrained: dict[str, str], environment: Environment, tmp_path: Path, zoo: Zoo
) -> None:
    def kept(max_latency: float) -> tuple[dict[str, float], list[str]]:
        out = tmp_path / f"at-most-{max_latency}"
        result = fuse(_requests(untrained, shots=10), out, environment, Silent(), max_latency=max_latency)
        taken = {probe["backbone"]: probe["latency_ms"] for probe in result["probes"]}
        return taken, [member["backbone"] for member in result["members"]]

    taken, members = kept(1e4)
    assert min(taken.values()) > 0
    # Time enough for the faster one and for no second one.
    _, members = kept((min(taken.values()) + sum(taken.values())) / 2)
    assert len(members) == 1
    slow = zoo("finetune", "builtin:digits", *_words(untrained), "--cascade", "fuse", "--max-latency", "0.001")
    assert "--max-latency 0.001: the fastest backbone takes" in slow.stderr
    other = zoo("finetune", "builtin:digits", "--backbone", "tiny/glyphnet", "--max-latency", "5")
    assert "only --backbone auto and --cascade fuse choose by it" in other.stderr


def _words(files: dict[str, str]) -> list[str]:
    return [word for name, file in files.items() for word in ("--backbone", name, "--weights", file)]


def test_selection_keeps_within_a_budget() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (400,))
    bits = torch.stack([labels % 2, labels // 2], 1).float()
    features = [(torch.cat([bits[:, n : n + 1] * 4, torch.randn(400, 8)], 1), [9]) for n in (0, 1)]
    for budget, expected in ((3.0, 2), (2.5, 1), (1.0, 1)):
        found = select(features, labels, classes=4, seed=0, costs=[2.0, 1.0], budget=budget)
        assert len(found) == expected
    assert select(features, labels, classes=4, seed=0, costs=[2.0, 1.0], budget=1.5) == [1]


def test_what_does_not_go_together_is_refused(
    untrained: dict[str, str], environment: Environment, tmp_path: Path, zoo: Zoo
) -> None:
    two = _requests(untrained)
    few = make_folder(tmp_path / "few", 3, 2)
    for requests, error, words in (
        (two[:1], UsageError, "needs two backbones at least"),
        ([two[0], two[0]], UsageError, "given twice with the same weights"),
        (
            _requests(untrained, strategy="full"),
            UsageError,
            "--strategy full: the members of this kind of fusion are probes",
        ),
        (_requests(untrained, head="mlp"), UsageError, "--head mlp: a fusion has one linear head"),
        (_requests(untrained, data=str(few), shots=None), DataError, "no validation images to compare by"),
        (_requests({**untrained, "timm/test_vit": "gone.pth"}), WeightsError, "no such weights file: gone.pth"),
    ):
        with pytest.raises(error, match=words):
            fuse(requests, tmp_path / "run", environment, Silent())
    assert not (tmp_path / "run").exists()
    twice = ("finetune", "builtin:digits", "--backbone", "tiny/glyphnet", "--backbone", "timm/test_resnet")
    assert "say how they become one model: --cascade fuse" in zoo(*twice).stderr
    wrong = zoo(*twice, "--cascade", "fuse", "--weights", "glyphs_v1")
    assert "--weights: 1 for 2 backbones; give one for each" in wrong.stderr


def test_backbones_side_by_side_give_what_each_gives(untrained: dict[str, str], environment: Environment) -> None:
    """Their embeddings to one scale, and each tap of theirs."""
    request = FinetuneRequest(
        data="builtin:digits",
        backbone=" + ".join(untrained),
        weights=" + ".join(untrained.values()),
        shots=10,
        device="cpu",
        threads=1,
    )
    data = open_dataset("builtin:digits", cache=environment.cache, progress=Silent(), shots=10)
    parts = resolve(request, environment, Silent())
    _, joined, _ = join_backbones(request, parts, data, environment, Silent())
    whole = build_backbone(joined.backbone.id, joined.backbone.spec, joined.weights).eval()
    alone = [build_backbone(p.backbone.id, p.backbone.spec, p.weights).eval() for p in parts]
    spec = joined.backbone.spec
    images = torch.randn(3, 3, spec.input.height, spec.input.width)
    with torch.no_grad():
        found = whole(images).split([p.backbone.spec.num_features for p in parts], 1)
        for own, backbone in zip(found, alone, strict=True):
            expected = backbone(images)
            ratio = own / expected
            torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-3)
        taps = make_taps(range(len(spec.stages)), spec.stages)
        pooled = PooledTaps(whole, taps)(images)
    assert pooled.shape[1] == sum(feature_widths(spec, taps))


@pytest.mark.parametrize(
    "strategy", [pytest.param("lp-ft", marks=pytest.mark.exhaustive), pytest.param("gradual", marks=pytest.mark.slow)]
)
def test_branches_are_trained_together(
    strategy: str, untrained: dict[str, str], environment: Environment, zoo: Zoo, tmp_path: Path
) -> None:
    done = zoo(
        *(
            "finetune",
            "builtin:digits",
            *_words(untrained),
            "--cascade",
            "fuse",
            "--strategy",
            strategy,
            "--shots",
            "20",
        ),
        *("--epochs", "4", "--device", "cpu", "--threads", "1", "--out", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder.open_complete(tmp_path / "run")
    result = run.read("result")
    assert sorted(result["backbone"].split(" + ")) == sorted(untrained)
    assert result["strategy"] == strategy
    path = tmp_path / "run.onnx"
    made = export(run.path, path, catalogue=environment.catalogue, progress=Silent())
    assert made["parity"]["max_abs"] < 1e-4
    rows = json.loads(zoo("bench", path, "--batch", "2", "--seconds", "0.1", "--json").stdout)["rows"]
    branches = rows[0]["branches"]
    assert sorted(name.partition(": ")[2] for name in branches if ": " in name) == sorted(untrained)
    assert min(taken for name, taken in branches.items() if ": " in name) > 0
    assert zoo("report", run.path).returncode == 0
