"""`zoo cascade gate`, and all that takes its run: evaluate, report, export, bench, predict, serve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import make_folder
from tritonclient import http as triton

from zoo.artifacts.manifest import EXIT, INPUT, OUTPUT
from zoo.artifacts.runs import RunFolder
from zoo.cascade.gate import GateRequest, gate
from zoo.data.images import decode_image
from zoo.errors import DataError, RunError, UsageError
from zoo.evaluate import evaluate
from zoo.export import judge, layers
from zoo.export.answering import Answering
from zoo.export.graph import to_onnx
from zoo.export.run import ExportOptions, export
from zoo.export.stitch import gated as stitch_gate
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.nn.cascade import Gate, load_members
from zoo.nn.model import TransferModel
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel

Zoo = Callable[..., subprocess.CompletedProcess[str]]


def _train(environment: Environment, out: Path, **options: object) -> Path:
    common = {"data": "builtin:digits", "backbone": "tiny/glyphnet", "strategy": "partial", "device": "cpu"}
    finetune(FinetuneRequest(**common | {"epochs": 3, "threads": 1} | options), out, environment, Silent())  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def small(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that sees digits in a quarter of the pixels."""
    return _train(environment, tmp_path_factory.mktemp("small") / "small", input_size=16, drop_stages=2)


@pytest.fixture(scope="module")
def big(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is better, and takes longer."""
    return _train(environment, tmp_path_factory.mktemp("big") / "big")


@pytest.fixture(scope="module")
def gated(small: Path, big: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cascade of both."""
    out = tmp_path_factory.mktemp("gated") / "gate"
    _gate(environment, out, small, big)
    return out


@pytest.fixture(scope="module")
def gated_model(gated: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, exported."""
    out = tmp_path_factory.mktemp("models") / "gate.onnx"
    export(gated, out, catalogue=environment.catalogue, progress=Silent())
    return out


def _gate(
    environment: Environment, out: Path, *runs: Path, max_loss: float = 3.0, **options: object
) -> dict[str, object]:
    request = GateRequest(runs=runs, data="builtin:digits", max_loss=max_loss, device="cpu", **options)  # type: ignore[arg-type]
    return gate(request, out, catalogue=environment.catalogue, cache=environment.cache, progress=Silent())


def _digits(environment: Environment, count: int) -> list[np.ndarray]:
    folder = next(environment.cache.rglob("test"))
    return [decode_image(path) for path in sorted(folder.rglob("*.png"))[::7][:count]]


def test_its_record_says_what_was_measured(gated: Path, small: Path, big: Path) -> None:
    result = RunFolder.open_complete(gated).read("result")
    alone = [RunFolder.open_complete(run).read("result")["test_accuracy"] for run in (small, big)]
    assert [member["test_accuracy"] for member in result["members"]] == pytest.approx(alone)
    assert result["loss_bound"] <= 3
    assert alone[1] - result["test_accuracy"] <= 0.03
    assert 0.3 < result["test_exits"][0] < 1
    assert sum(result["test_exits"]) == pytest.approx(1)
    costs = [member["macs"] for member in result["members"]]
    assert result["work"] == pytest.approx(costs[0] / costs[1] + result["val_exits"][1])
    bounds = [step["bound"] for step in result["walk"]]
    assert all(bound <= 0.03 for bound in bounds)
    # A fifth of the images nobody was trained on calibrates; the others choose.
    assert result["images"] == pytest.approx(4 * result["calibration_images"], abs=4)


def test_run_and_model_are_evaluated_alike(gated: Path, gated_model: Path, environment: Environment) -> None:
    found = [
        evaluate(
            target,
            "builtin:digits",
            split="test",
            catalogue=environment.catalogue,
            cache=environment.cache,
            progress=Silent(),
            device="cpu",
        )
        for target in (gated, gated_model)
    ]
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["accuracy"] == RunFolder.open_complete(gated).read("result")["test_accuracy"]
    assert found[0]["ece"] == pytest.approx(found[1]["ece"], abs=1e-5)
    assert found[0]["seen_in_training"] == 0


@pytest.mark.slow
def test_it_needs_its_members_no_more(
    gated: Path, gated_model: Path, environment: Environment, tmp_path: Path, small: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(gated, moved)
    hidden = small.with_name("hidden")
    small.rename(hidden)
    try:
        export(moved, tmp_path / "gate.onnx", catalogue=environment.catalogue, progress=Silent())
    finally:
        hidden.rename(small)
    assert (tmp_path / "gate.onnx").stat().st_size == pytest.approx(gated_model.stat().st_size, rel=0.01)


@pytest.fixture(scope="module")
def members(gated: Path, environment: Environment) -> list[tuple[TransferModel, onnx.ModelProto]]:
    """Each member, and it exported."""
    loaded = load_members(RunFolder.open_complete(gated), environment.catalogue)
    return [(model, to_onnx(model)) for model, _ in loaded]


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("average", [True, False])
def test_parity_at_every_share_of_hard_images(
    count: int,
    average: bool,
    members: list[tuple[TransferModel, onnx.ModelProto]],
    environment: Environment,
    tmp_path: Path,
) -> None:
    models, protos = zip(*(members + members)[:count], strict=True)
    images = np.stack(_digits(environment, 33))
    for threshold, shares in ((0.0, {0.0}), (0.9, None), (2.0, {1.0})):
        chosen = Gate(threshold=threshold, average=average)
        path = tmp_path / f"{threshold}.onnx"
        path.write_bytes(stitch_gate(protos, chosen).SerializeToString())
        model, answering = OnnxModel(path, device="cpu", threads=1), Answering(models, chosen)
        hard = set()
        for batch in (1, 2, 3, 8, 33):
            for start in range(0, len(images) - batch + 1, batch):
                pixels = images[start : start + batch]
                found, exits = model.run({INPUT: pixels}, [OUTPUT, EXIT])
                np.testing.assert_allclose(found, answering(pixels, exits), atol=1e-4)
                hard.add(float((exits > 0).mean()))
        assert hard == shares if shares else len(hard) > 3, hard


def test_the_server_tells_where_images_stop(gated_model: Path, environment: Environment, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo_cli", "serve", str(gated_model), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"].removeprefix("http://")
        client, images = triton.InferenceServerClient(url), np.stack(_digits(environment, 40))
        wanted = triton.InferInput(INPUT, list(images.shape), "UINT8")
        wanted.set_data_from_numpy(images)
        answer = client.infer("gate", [wanted])
        expected = OnnxModel(gated_model, device="cpu").run({INPUT: images}, [OUTPUT, EXIT])
        np.testing.assert_allclose(answer.as_numpy(OUTPUT), expected[0], atol=1e-5)
        assert answer.as_numpy(EXIT).tolist() == expected[1].tolist()
        # An output left out is counted all the same.
        client.infer("gate", [wanted], outputs=[triton.InferRequestedOutput(OUTPUT)])
        (statistics,) = client.get_inference_statistics("gate")["model_stats"]
        assert (statistics["inference_count"], statistics["execution_count"]) == (80, 2)
        counts = np.bincount(expected[1], minlength=2)
        assert [row["count"] for row in statistics["exits"]] == (2 * counts).tolist()
        assert statistics["exits"][0]["rate"] == pytest.approx(counts[0] / 40)
        assert sum(row["expected_rate"] for row in statistics["exits"]) == pytest.approx(1)
        client.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_bench_shows_the_time_of_each_branch(gated_model: Path, zoo: Zoo) -> None:
    done = zoo("bench", gated_model, "--data", "builtin:digits", "--batch", "1,8", "--seconds", "0.1", "--json")
    rows = json.loads(done.stdout)["rows"]
    for row in rows:
        assert list(row["branches"]) == ["0: tiny/glyphnet", "1: tiny/glyphnet", "rest"]
        assert all(taken > 0 for taken in row["branches"].values())
        assert 0 < row["preprocess_ms"] < sum(row["branches"].values())
        assert row["accuracy"] > 0.9
    assert "--data DATA" in zoo("bench", gated_model, "--batch", "1", "--seconds", "0.1").stdout


def test_in_eight_bits(
    gated: Path, gated_model: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "_GAIN", 0)  # networks so small say nothing of time
    monkeypatch.setattr(judge, "_SECONDS", 0.01)
    monkeypatch.setattr(layers, "_FIRST", (0, 1))
    out = tmp_path / "gate8.onnx"
    options = ExportOptions(precision="int8", device="cpu", threads=1, max_loss=0.05)
    result = export(gated, out, catalogue=environment.catalogue, progress=Silent(), options=options)
    assert result["precision"] == "int8", result["variants"]
    assert result["bytes"] < 0.6 * gated_model.stat().st_size
    found = [
        evaluate(
            path,
            "builtin:digits",
            split="test",
            catalogue=environment.catalogue,
            cache=environment.cache,
            progress=Silent(),
        )["accuracy"]
        for path in (gated_model, out)
    ]
    assert abs(found[0] - found[1]) < 0.02


def test_its_page(gated: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("report", gated, "--out", tmp_path / "gate.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "gate.html").read_text()
    for words in ("Where images stop", "Accuracy against work", "What is mistaken for what", "zoo cascade gate"):
        assert words in page


def test_the_command_and_what_it_says(small: Path, big: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("cascade", "gate", small, big, "builtin:digits", "--out", tmp_path / "gate", "--max-loss", "3")
    assert done.returncode == 0, done.stderr
    assert "of accuracy are lost (with 95 % confidence" in done.stdout
    again = zoo("cascade", "gate", small, big, "builtin:digits", "--out", tmp_path / "gate")
    assert again.returncode == RunError.exit_code
    assert "already in use" in again.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_there_is_nothing_to_resume(gated: Path, zoo: Zoo) -> None:
    done = zoo("finetune", "--resume", "--out", gated, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["strategy"] == "gate"


def test_a_run_made_whole_is_there_or_not(tmp_path: Path) -> None:
    def fails(run: RunFolder) -> None:
        run.write("result", {})
        raise RunError("no more room")

    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="no more room"):
        RunFolder.create_whole(tmp_path / "run", fails)
    assert list(tmp_path.iterdir()) == []
    made = RunFolder.create_whole(tmp_path / "run", lambda run: run.write("result", {}))
    assert RunFolder.open_complete(tmp_path / "run").path == made.path
    with pytest.raises(RunError, match="already in use"):
        RunFolder.create_whole(tmp_path / "run", fails)


def test_a_promise_beyond_its_images_is_refused(
    small: Path, big: Path, environment: Environment, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"too few images to promise a loss of at most 1 points: .* it takes 299"):
        _gate(environment, tmp_path / "gate", small, big, max_loss=1.0)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_what_does_not_go_together_is_refused(
    small: Path, big: Path, gated: Path, environment: Environment, tmp_path: Path
) -> None:
    other = make_folder(tmp_path / "shapes", 12, 8)
    shapes = _train(environment, tmp_path / "other", data=str(other), epochs=1)
    probe = _train(environment, tmp_path / "probe", strategy="probe", epochs=None, input_size=16)
    weak = _train(environment, tmp_path / "weak", strategy="scratch", epochs=1)
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    (broken / "weights.safetensors").unlink()
    for runs, options, error, words in (
        ((big, small), {}, UsageError, "runs not in order: .*small.* give the cheapest first"),
        ((small,), {}, UsageError, "a gate needs two runs at least"),
        ((small, shapes), {}, UsageError, "runs of different classes: .* in one of them only"),
        ((small, gated), {}, UsageError, "already a cascade: .*; give the runs it was made of"),
        (
            (broken, big),
            {},
            RunError,
            "weights of a run are gone: .*broken/weights.safetensors; restore them or train again",
        ),
        ((small, weak), {}, RunError, r"the big model is not better: .*weak is right about .* use that one alone"),
        ((probe, big), {}, DataError, "no images to choose by: .* --split test"),
        ((small, big), {"max_loss": 0.0}, UsageError, "--max-loss: 0; points of accuracy"),
    ):
        with pytest.raises(error, match=words):
            _gate(environment, tmp_path / "gate", *runs, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "gate").exists()
