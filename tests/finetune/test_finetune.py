"""Every strategy trains what it says, and says what it trained."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_folder, real_weights

from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.catalogue.weights import weights_path
from zoo.errors import RunError, UsageError
from zoo.evaluate import evaluate
from zoo.export.run import export
from zoo.finetune.curves import LearningCurve
from zoo.finetune.job import Job
from zoo.finetune.loop import Training
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import dry_run, finetune, resume
from zoo.nn.build import build_model, load_run_model
from zoo.nn.model import state_digest
from zoo.progress import Silent
from zoo.report.transfer import read_transfer


def _request(dataset: Path, **options: Any) -> FinetuneRequest:
    steps = {} if options.get("strategy") == "probe" else {"epochs": 6}
    common = {"data": str(dataset), "backbone": "tiny/glyphnet", "device": "cpu", "batch_size": 16, "threads": 1}
    return FinetuneRequest(**common | steps | options)


@pytest.mark.parametrize("strategy", ["probe", "partial", "lp-ft", "gradual", "surgical", "full", "scratch"])
def test_strategy_runs_and_is_deterministic(
    strategy: Any, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    request = _request(dataset, strategy=strategy)
    first = finetune(request, tmp_path / "a", environment, Silent())
    second = finetune(request, tmp_path / "b", environment, Silent())
    other = finetune(replace(request, seed=1), tmp_path / "c", environment, Silent())
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["weights_sha256"] != other["weights_sha256"]
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"request.json", "dataset.json", "environment.json", "weights.safetensors", "result.json"} <= files
    assert not list((tmp_path / "a").rglob("*.pkl")) + list((tmp_path / "a").rglob("*.pt"))
    assert first["test_accuracy"] > (0.3 if strategy in ("scratch", "full") else 0.7)


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_partial_freezes_exactly_the_first_stages(
    frozen: int, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    # Without validation images, which would choose the perfect head of the probe: the last weights are kept.
    request = _request(dataset, strategy="partial", freeze_stages=frozen, val_share=0.0)
    finetune(request, tmp_path / "run", environment, Silent())
    trained, record = load_run_model(RunFolder.open(tmp_path / "run"), environment.catalogue)
    entry, _ = environment.catalogue.find_backbone(record.backbone)
    head = environment.catalogue.find_head(record.head)
    weights = weights_path(entry.spec.weights[0], environment.cache)
    source = build_model(entry, head, record, weights=weights, seed=0)
    same = [
        state_digest([before]) == state_digest([after])
        for before, after in zip(source.backbone.stages, trained.backbone.stages, strict=True)
    ]
    assert same == [number < frozen for number in range(4)]


def test_dry_run_names_what_is_trained_and_writes_nothing(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = dry_run(_request(dataset, strategy="partial", freeze_stages=2), environment, Silent())
    plan, groups = found.plan, found.groups
    assert [group.frozen for group in groups] == [True, True, False, False, False]
    assert [group.lr > 0 for group in groups] == [False, False, True, True, True]
    assert sum(group.params for group in groups[:-1]) == 336_448
    assert plan.keep_statistics
    assert not list(tmp_path.iterdir())


def test_steps_count_the_images_that_are_really_used(environment: Environment, tmp_path: Path) -> None:
    """So that a resumed run, which knows no others, takes as many."""
    data = make_folder(tmp_path / "data", 11, 1)
    (data / "train" / "dots" / "000.png").write_bytes(b"spoilt")
    request = _request(
        data, strategy="full", epochs=2, batch_size=32, val_share=0.0, on_bad_sample="skip", augment="none"
    )
    result = finetune(request, tmp_path / "run", environment, Silent())
    assert (result["train_images"], result["steps"]) == (32, 2)


def test_mlp_head_and_tracked_curve(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = _request(dataset, head="mlp", head_options={"hidden": (8,), "dropout": 0.1}, track_test=True)
    finetune(request, tmp_path / "run", environment, Silent())
    curve = LearningCurve.from_metrics(RunFolder.open(tmp_path / "run").read_metrics())
    assert curve.steps[0] == 0
    assert curve.start > 0.5  # from the probe's head
    assert curve.steps_to(2.0) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "scratch", "weights": "glyphs_v1"}, "scratch starts from random weights"),
        ({"strategy": "full", "weights": "none"}, "needs pretrained weights"),
        ({"strategy": "full", "freeze_stages": 1}, "--freeze-stages goes with --strategy partial"),
        ({"lr": 0}, "--lr: 0; must be more than 0"),
        ({"lr": float("nan")}, "--lr: nan; must be more than 0"),
        ({"strategy": "full", "interpolate": True}, "--interpolate: full starts from a random head"),
        ({"strategy": "lp-ft", "cache": "always"}, "--cache always: lp-ft freezes nothing"),
        ({"strategy": "partial", "freeze_stages": 0, "views": 3}, "--views: partial freezes nothing"),
        ({"strategy": "scratch", "compare_scratch": True}, "--compare-scratch: the run is from scratch itself"),
        ({"strategy": "probe", "epochs": 3}, "--epochs means nothing to a probe"),
        ({"strategy": "probe", "augment": "none", "views": 2}, "--views 2: with --augment none they are all the same"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], message: str, dataset: Path) -> None:
    with pytest.raises(UsageError, match=message):
        _request(dataset, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "partial", "freeze_stages": 4}, r"has 4 stages, freeze 0 to 3 of them \(all: --strategy probe\)"),
        ({"input_size": 33}, "must be a multiple of 8"),
        ({"head_options": {"depth": 3}}, "unknown option of head heads/linear: 'depth'"),
        ({"backbone": "tiny/glyphnt"}, "did you mean 'tiny/glyphnet'"),
        ({"backbone": "tiny/glyphnet@glyphs_v2"}, "did you mean 'glyphs_v1'"),
        ({"head": "linea"}, "did you mean 'linear'"),
    ],
)
def test_requests_that_do_not_fit(
    options: dict[str, Any], message: str, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(_request(dataset, **options), tmp_path / "run", environment, Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_frozen_means_frozen_with_real_mobilenet(
    shared: Path, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    """Its BatchNorm statistics are made up: any update would show, in the checksum and in the accuracy."""
    request = _request(
        dataset,
        backbone="torchvision/mobilenet_v2",
        weights=real_weights(shared, "mobilenet_v2"),
        strategy="partial",
        freeze_stages=4,
        val_share=0.0,
        epochs=2,
        input_size=96,
    )
    result = finetune(request, tmp_path / "run", environment, Silent())
    trained, record = load_run_model(RunFolder.open(tmp_path / "run"), environment.catalogue)
    entry, _ = environment.catalogue.find_backbone(record.backbone)
    head = environment.catalogue.find_head(record.head)
    source = build_model(entry, head, record, weights=Path(str(request.weights)), seed=0)
    assert state_digest(source.backbone.stages[:4]) == state_digest(trained.backbone.stages[:4])
    assert state_digest(source.backbone.stages[:4]) == result["frozen_sha256"]
    assert state_digest(source.backbone.stages[4:]) != state_digest(trained.backbone.stages[4:])


def test_predictions_of_held_out_images_are_kept(run: Path) -> None:
    folder = RunFolder.open_complete(run)
    kept, result = folder.read_predictions(), folder.read("result")
    for split in ("val", "test"):
        labels = [sample["label"] for sample in folder.read("dataset")["samples"] if sample["split"] == split]
        assert kept[split].sum(1) == pytest.approx(1)
        assert (kept[split].argmax(1) == labels).mean() == pytest.approx(result[f"{split}_accuracy"])


def test_scratch_is_measured_along_the_way_as_at_the_end(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    """By statistics of its present weights: after ten steps the running ones are far behind."""
    request = _request(dataset, strategy="scratch", epochs=10, batch_size=32)
    result = finetune(request, tmp_path / "run", environment, Silent())
    last = RunFolder.open(tmp_path / "run").read_metrics()[-1]
    assert result["plan"]["steps"] == last["step"] == 10
    assert result["val_accuracy"] == max(row["val_accuracy"] for row in RunFolder.open(tmp_path / "run").read_metrics())


def test_a_probe_without_validation_images_is_fitted_on_the_others(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    result = finetune(_request(dataset, strategy="probe", shots=3), tmp_path / "run", environment, Silent())
    assert (result["fitted_splits"], result["train_images"]) == (["train"], 9)


def test_training_stops_on_a_plateau_and_keeps_the_best(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    # So fast that the good head it starts from is lost.
    request = _request(dataset, strategy="lp-ft", lr=0.1, epochs=100, patience=3)
    result = finetune(request, tmp_path / "run", environment, Silent())
    rows = RunFolder.open(tmp_path / "run").read_metrics()
    assert result["steps"] < result["plan"]["steps"]
    best = next(number for number, row in enumerate(rows) if row["step"] == result["best_step"])
    assert len(rows) == best + 1 + 3  # three evaluations that were no better
    assert result["val_accuracy"] == max(row["val_accuracy"] for row in rows) == rows[best]["val_accuracy"]


def test_the_record_has_the_rates_that_were_used(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    surgical = finetune(_request(dataset, strategy="surgical"), tmp_path / "surgical", environment, Silent())
    scales = RunFolder.open(tmp_path / "surgical").read_decisions()["relative gradients of stages"]
    assert len(set(scales)) > 1
    assert surgical["plan"]["stage_lrs"] == pytest.approx([3e-4 * scale for scale in scales])
    raced = finetune(_request(dataset, strategy="full", lr_race=True), tmp_path / "race", environment, Silent())
    made = RunFolder.open(tmp_path / "race").read_decisions()
    scores = {factor: made[f"score of learning rate x {factor:.2g}"] for factor in (1 / 3, 1.0, 3.0)}
    assert raced["plan"]["head_lr"] == pytest.approx(3e-3 * max(scores, key=scores.__getitem__))


def test_averages_are_kept_also_where_nothing_chooses(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    plain = _request(dataset, strategy="lp-ft", val_share=0.0)
    digests = {
        finetune(request, tmp_path / str(request.average), environment, Silent())["weights_sha256"]
        for request in (plain, replace(plain, average=True))
    }
    assert len(digests) == 2


def test_rare_classes_get_a_head_of_their_own_where_it_helps(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(dataset, strategy="lp-ft", balance=True)
    digests, judge = {}, Training.judge
    for change in (-1, 1):
        asked = itertools.count()
        monkeypatch.setattr(Training, "judge", lambda _, asked=asked, change=change: (change * next(asked), 0.0))
        result = finetune(request, tmp_path / str(change), environment, Silent())
        assert result["balanced_head"] is (change > 0)
        model, _ = load_run_model(RunFolder.open(tmp_path / str(change)), environment.catalogue)
        digests[change] = state_digest([model.backbone]), state_digest([model.head])
    assert digests[-1][0] == digests[1][0]
    assert digests[-1][1] != digests[1][1]
    monkeypatch.setattr(Training, "judge", judge)
    assert finetune(request, tmp_path / "real", environment, Silent())["val_accuracy"] > 0.7


def test_without_validation_images_the_comparison_is_drawn_by_test_images(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    request = _request(dataset, strategy="lp-ft", val_share=0.0, compare_scratch=True)
    finetune(request, tmp_path / "run", environment, Silent())
    transfer = read_transfer(RunFolder.open(tmp_path / "run"))
    assert transfer is not None
    assert transfer.split == "test"


def test_what_weakens_a_model_is_told(tmp_path: Path, zoo: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    data = make_folder(tmp_path / "data", train=20, test=1)
    for path in sorted((data / "train" / "rings").iterdir())[2:]:
        path.unlink()
    options = (
        "--backbone",
        "tiny/glyphnet",
        "--strategy",
        "lp-ft",
        "--epochs",
        "1",
        "--val-share",
        "0",
        "--device",
        "cpu",
    )
    plain = zoo("finetune", data, *options, "--out", tmp_path / "plain")
    assert "classes have 2 to 20 training images: --balance makes rare ones count as much" in plain.stderr
    assert "no validation images to calibrate by: expect the confidences to be too high" in plain.stderr
    balanced = zoo("finetune", data, *options, "--balance", "--out", tmp_path / "balanced")
    assert (balanced.returncode, "classes have" in balanced.stderr) == (0, False)


def test_too_little_memory_on_a_gpu_says_what_to_do(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Job) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")

    monkeypatch.setattr(Job, "finish", full)
    with pytest.raises(RunError, match="batches of 32 images: CUDA out of memory; give a smaller --batch-size"):
        finetune(_request(dataset, batch_size=32), tmp_path / "run", environment, Silent())


def test_the_twin_has_the_same_images_and_goes_on_after_a_cut(
    dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    request = _request(dataset, strategy="lp-ft", compare_scratch=True)
    result = finetune(request, tmp_path / "run", environment, Silent())
    twin = RunFolder.open_complete(tmp_path / "run" / "scratch")
    assert result["scratch"] == twin.read("result")
    assert twin.read("result")["strategy"] == "scratch"
    assert twin.read("dataset")["samples"] == RunFolder.open(tmp_path / "run").read("dataset")["samples"]
    for lost in ("result.json", "request.json"):  # cut before its end, and before all its records were there
        (tmp_path / "run" / "scratch" / lost).unlink()
        again = resume(tmp_path / "run", environment, Silent())
        assert again["scratch"]["weights_sha256"] == result["scratch"]["weights_sha256"]


@pytest.mark.parametrize("strategy", ["probe", "lp-ft"])
def test_a_backbone_without_its_last_stages_trains_and_exports(
    strategy: str, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    finetune(_request(dataset, strategy=strategy, drop_stages=2), tmp_path / "run", environment, Silent())
    model, record = load_run_model(RunFolder.open(tmp_path / "run"), environment.catalogue)
    assert (len(model.backbone.stages), record.drop_stages) == (2, 2)
    parity = export(tmp_path / "run", tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())["parity"]
    assert parity["max_abs"] < 1e-4
    with pytest.raises(UsageError, match="one must stay"):
        finetune(_request(dataset, strategy=strategy, drop_stages=4), tmp_path / "none", environment, Silent())


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_probe_that_sees_lower_stages_exports(
    head: str, dataset: Path, environment: Environment, tmp_path: Path
) -> None:
    finetune(_request(dataset, strategy="probe", head=head, taps=2), tmp_path / "run", environment, Silent())
    assert RunFolder.open(tmp_path / "run").read_model().taps == (1, 2)
    parity = export(tmp_path / "run", tmp_path / "m.onnx", catalogue=environment.catalogue, progress=Silent())["parity"]
    assert parity["max_abs"] < 1e-4
    found = evaluate(
        tmp_path / "m.onnx",
        str(dataset),
        split="test",
        catalogue=environment.catalogue,
        cache=tmp_path,
        progress=Silent(),
    )
    assert found["accuracy"] == RunFolder.open(tmp_path / "run").read("result")["test_accuracy"]


def test_taps_there_are_not(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--taps 4: glyphnet has 3 stages below"):
        finetune(_request(dataset, strategy="probe", taps=4), tmp_path / "run", environment, Silent())
    with pytest.raises(UsageError, match="--taps 1: 0 or more, and with --strategy probe, not 'full'"):
        _request(dataset, strategy="full", taps=1)


UNSTEADY = """
from torch import ones, tensor, zeros
from torch.nn import functional
from dataclasses import replace
from zoo.hookspecs import hookimpl

def loss(logits, labels):
    return functional.cross_entropy(logits, labels) + zeros(1).put_(tensor([0]), ones(1)).sum()

@hookimpl
def zoo_heads():
    import zoo_heads
    return [replace(zoo_heads.zoo_heads()[0], name="unsteady", loss=loss)]
"""


def test_an_operation_that_is_never_the_same_is_named(
    dataset: Path, environment: Environment, tmp_path: Path, make_plugin: Callable[..., Path]
) -> None:
    make_plugin("unsteady", UNSTEADY)
    full = replace(environment, catalogue=Catalogue.installed())
    request = _request(dataset, strategy="full", head="unsteady", epochs=1)
    finetune(request, tmp_path / "any", full, Silent())
    with pytest.raises(RunError, match="--deterministic: put_ gives another result each time; leave the option out"):
        finetune(replace(request, deterministic=True), tmp_path / "same", full, Silent())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("strategy", ["probe", "lp-ft"])
def test_a_class_without_validation_images_is_learnt_all_the_same(
    strategy: str, environment: Environment, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "data", 12, 8)
    for number, name in enumerate(sorted(path.name for path in (folder / "train").iterdir())):
        if number:  # all but the first
            (folder / "val" / name).mkdir(parents=True)
            for image in sorted((folder / "train" / name).iterdir())[:4]:
                image.rename(folder / "val" / name / image.name)
    result = finetune(_request(folder, strategy=strategy), tmp_path / "run", environment, Silent())
    predictions = RunFolder.open_complete(tmp_path / "run").read_predictions()
    assert predictions["val"].shape == (8, 3)
    assert result["test_accuracy"] > 0.7
