"""`zoo finetune --after`, and all that takes its run: evaluate, report, export, bench, predict, serve."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ask_server, make_folder
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax, softmax

from zoo.artifacts.manifest import INPUT, OUTPUT
from zoo.artifacts.runs import RunFolder
from zoo.cascade.after import after
from zoo.cascade.gate import GateRequest, gate
from zoo.cascade.left_out import said_unseen
from zoo.catalogue import Catalogue
from zoo.data.builtin import materialise
from zoo.data.dataset import DataSet
from zoo.data.images import decode_image
from zoo.errors import DataError, PluginError, RunError, UsageError, WeightsError
from zoo.evaluate import evaluate
from zoo.export.answering import Answering
from zoo.export.run import export
from zoo.export.stitch import export_members, stitch
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.nn.cascade import After, Edge, load_cascade, load_members
from zoo.progress import Silent
from zoo.runtime.model import OnnxModel

Zoo = Callable[..., subprocess.CompletedProcess[str]]
Rows = Sequence[tuple[Path, str, str]]


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def _table(path: Path, rows: Rows) -> str:
    """A data set of images where they are."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows(rows)
    return str(path)


def _digits(environment: Environment, split: str, step: int) -> list[Path]:
    root = materialise("digits", environment.cache)
    return sorted((root / split).rglob("*.png"))[::step]


def _groups(environment: Environment, path: Path, step: int, name: Callable[[int], str]) -> str:
    """Some of the digits, under the names of their groups."""
    rows = [
        (file, name(int(file.parent.name)), split)
        for split in ("train", "test")
        for file in _digits(environment, split, step)
    ]
    return _table(path, rows)


def _request(data: str, **options: object) -> FinetuneRequest:
    common = {"data": data, "backbone": "tiny/glyphnet", "device": "cpu", "threads": 1}
    return FinetuneRequest(**common | options)  # type: ignore[arg-type]


def _fine(**options: object) -> FinetuneRequest:
    """Few digits, seen by few stages in few pixels."""
    common = {"data": "builtin:digits", "shots": 20, "val_share": 0.3, "input_size": 16, "drop_stages": 2}
    return _request(**common | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def coarse(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that tells even from odd digits."""
    folder = tmp_path_factory.mktemp("coarse")
    data = _groups(environment, folder / "parity.csv", 2, lambda digit: ("even", "odd")[digit % 2])
    finetune(_request(data, strategy="probe"), folder / "parity", environment, Silent())
    return folder / "parity"


@pytest.fixture(scope="module")
def large(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run that tells three groups of digits from each other, in other pixels."""
    folder = tmp_path_factory.mktemp("large")
    data = _groups(environment, folder / "size.csv", 2, lambda digit: ("small", "middle", "large")[digit // 4])
    options = {"strategy": "partial", "epochs": 2, "input_size": 24}
    finetune(_request(data, **options), folder / "size", environment, Silent())
    return folder / "size"


@pytest.fixture(scope="module")
def chained(coarse: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits after their parity."""
    out = tmp_path_factory.mktemp("chained") / "fine"
    after(_fine(), [coarse], out, environment, Silent())
    return out


@pytest.fixture(scope="module")
def exported(chained: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, exported."""
    out = tmp_path_factory.mktemp("models") / "fine.onnx"
    made = export(chained, out, catalogue=environment.catalogue, progress=Silent())
    assert made["parity"]["max_abs"] < 1e-4
    return out


def test_a_weak_model_is_better_after_a_coarse_one(chained: Path, coarse: Path) -> None:
    run = RunFolder.open_complete(chained)
    result = run.read("result")
    alone, together = result["methods"]
    assert (alone["method"], together["method"]) == ("single", "after")
    assert together["val_loss"] < alone["val_loss"]
    assert result["method"] == "after"
    assert result["test_accuracy"] == together["test_accuracy"] > alone["test_accuracy"] + 0.01
    assert result["backbone"] == "tiny/glyphnet -> tiny/glyphnet"
    assert [member["classes"] for member in result["members"]] == [["even", "odd"], [str(digit) for digit in range(10)]]
    (before,) = result["upstream"]
    assert before["run"] == str(coarse)
    assert before["test_accuracy"] == RunFolder.open_complete(coarse).read("result")["test_accuracy"]
    assert 0 < before["left_out"] < before["images"]
    assert {key: value for key, value in run.read("cascade").items() if key != "schema"} == {
        "kind": "after",
        "edges": [{"from": 0, "to": 1, "type": "probabilities"}],
    }
    assert {name: tensor.shape for name, tensor in load_file(run.edges).items()} == {"0-1": (10, 2)}


def test_the_same_seed_gives_the_same_run(
    chained: Path, coarse: Path, environment: Environment, tmp_path: Path
) -> None:
    again = after(_fine(), [coarse], tmp_path / "again", environment, Silent())
    assert again["weights_sha256"] == RunFolder.open_complete(chained).read("result")["weights_sha256"]
    with pytest.raises(RunError, match="already in use"):
        after(_fine(), [coarse], chained, environment, Silent())


def test_run_and_model_are_evaluated_alike(chained: Path, exported: Path, environment: Environment) -> None:
    found = [
        evaluate(
            target,
            "builtin:digits",
            split="test",
            catalogue=environment.catalogue,
            cache=environment.cache,
            progress=Silent(),
            device="cpu",
            threads=1,
        )
        for target in (chained, exported)
    ]
    assert [each["accuracy"] for each in found] == [
        RunFolder.open_complete(chained).read("result")["test_accuracy"]
    ] * 2
    assert found[0]["seen_in_training"] == 0
    manifest = OnnxModel(exported, device="cpu", threads=1).require_manifest("this")
    assert manifest.labels == tuple(str(digit) for digit in range(10))
    assert manifest.cascade is not None
    assert manifest.cascade["edges"] == [{"from": 0, "to": 1, "type": "probabilities"}]
    assert [member["input"]["height"] for member in manifest.cascade["members"]] == [32, 16]


def test_it_needs_the_runs_before_no_more(
    chained: Path, coarse: Path, environment: Environment, tmp_path: Path
) -> None:
    hidden = coarse.with_name("hidden")
    coarse.rename(hidden)
    try:
        export(chained, tmp_path / "fine.onnx", catalogue=environment.catalogue, progress=Silent())
    finally:
        hidden.rename(coarse)


def _chain(*classes: int) -> After:
    """Every member hears all before it."""
    random = np.random.default_rng(0)
    return After(
        edges=tuple(
            Edge(
                source=source,
                target=target,
                type="probabilities",
                weight=random.normal(size=(classes[target], classes[source])).astype(np.float32),
            )
            for target in range(len(classes))
            for source in range(target)
        )
    )


def test_what_a_chain_answers() -> None:
    chain, random = _chain(2, 3, 4), np.random.default_rng(1)
    logits = [random.normal(size=(5, count)).astype(np.float32) for count in (2, 3, 4)]
    said = [log_softmax(logits[0], 1)]
    for target in (1, 2):
        found = logits[target]
        for edge in chain.edges:
            if edge.target == target:
                words = said[edge.source]
                found = found + (words - words.mean(1, keepdims=True)) @ edge.weight.T
        said.append(log_softmax(found, 1))
    answers, exits = chain.combine(logits)
    np.testing.assert_allclose(answers, np.exp(said[-1]), atol=1e-5)
    assert exits is None
    np.testing.assert_allclose(After(edges=()).combine(logits[:1])[0], softmax(logits[0], 1))


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_parity(
    count: int, chained: Path, coarse: Path, environment: Environment, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    runs = [coarse, chained] if count == 2 else [coarse, request.getfixturevalue("large"), chained]
    members = [load_members(RunFolder.open_complete(run), environment.catalogue)[-1] for run in runs]
    models, chain = [model for model, _ in members], _chain(*(len(record.classes) for _, record in members))
    path = tmp_path / "fine.onnx"
    path.write_bytes(stitch(export_members(models, chain), chain).SerializeToString())
    model, answering = OnnxModel(path, device="cpu", threads=1), Answering(models, chain)
    images = np.stack([decode_image(file) for file in _digits(environment, "test", 7)[:33]])
    for batch in (1, 2, 3, 8, 33):
        for start in range(0, len(images) - batch + 1, batch):
            pixels = images[start : start + batch]
            np.testing.assert_allclose(model.run({INPUT: pixels}, [OUTPUT])[0], answering(pixels), atol=1e-4)


def _memorised(environment: Environment, folder: Path, count: int, **options: object) -> tuple[Path, DataSet]:
    """A run that learned by heart whether each of so many digits is a or b, which nobody can know."""
    draw, images = random.Random(1), _digits(environment, "train", 1)
    rows = [(path, draw.choice("ab"), "train") for path in images[:: len(images) // count]]
    rows += [(path, draw.choice("ab"), "test") for path in _digits(environment, "test", 100)]
    shutil.copyfile(images[0], folder / "copy.png")  # left out together with the first one
    rows.append((folder / "copy.png", rows[0][1], "train"))
    data = _table(folder / "memo.csv", rows)
    finetune(_request(data, val_share=0.0, augment="none", **options), folder / "memo", environment, Silent())
    return folder / "memo", DataSet.from_json(RunFolder.open_complete(folder / "memo").read("dataset"))


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (20, {"strategy": "probe"}),
        pytest.param(
            40,
            {"strategy": "full", "epochs": 8, "input_size": 16, "drop_stages": 1, "batch_size": 8, "lr": 3e-3},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_answers_about_training_images_are_those_of_who_has_not_seen_them(
    count: int, options: dict[str, object], environment: Environment, tmp_path: Path
) -> None:
    path, data = _memorised(environment, tmp_path, count, **options)
    heard, request = Listening(), _request("memo.csv")
    said = said_unseen(path, data, request, environment, heard)
    truth = np.array([sample.label for sample in data.samples])
    fitted = np.array([sample.split == "train" for sample in data.samples])
    assert said.left_out == fitted.sum()
    models = [model for model, _ in load_members(RunFolder.open_complete(path), environment.catalogue)]
    inside = Answering(models, None)(np.stack([decode_image(data.path(sample)) for sample in data.samples]))
    assert (inside.argmax(1) == truth)[fitted].mean() > 0.85
    assert (said.logits.argmax(1) == truth)[fitted].mean() < 0.7
    np.testing.assert_allclose(softmax(said.logits, 1)[~fitted], inside[~fitted], atol=1e-5)
    twins = [number for number, sample in enumerate(data.samples) if sample.sha256 == data.samples[0].sha256]
    assert len(twins) == 2
    np.testing.assert_array_equal(said.logits[twins[0]], said.logits[twins[1]])
    again = said_unseen(path, data, request, environment, Silent())
    np.testing.assert_array_equal(again.logits, said.logits)
    cost = "its head is computed 5 times more" if options["strategy"] == "probe" else "it is trained 5 times more"
    assert any(f"was fitted on {fitted.sum()} of these images: {cost}" in line for line in heard.said)


@pytest.mark.slow
def test_several_runs_one_of_them_trained(
    coarse: Path, large: Path, environment: Environment, tmp_path: Path, zoo: Zoo
) -> None:
    words = ["--backbone", "tiny/glyphnet", "--input-size", "16", "--drop-stages", "2", "--shots", "20"]
    words += ["--val-share", "0.3", "--after", coarse, "--after", large, "--device", "cpu", "--threads", "1"]
    done = zoo("finetune", "builtin:digits", *words, "--out", "both")
    assert done.returncode == 0, done.stderr
    assert "it is trained 5 times more, each time without a fifth of its own" in done.stderr
    assert "kept: after, tiny/glyphnet + tiny/glyphnet -> tiny/glyphnet" in done.stdout
    result = RunFolder.open_complete(tmp_path / "both").read("result")
    assert [len(member["classes"]) for member in result["members"]] == [2, 3, 10]
    assert zoo("export", "both", "-o", "both.onnx").returncode == 0
    found = json.loads(zoo("evaluate", "both.onnx", "builtin:digits", "--json").stdout)
    assert found["accuracy"] == result["test_accuracy"]


@pytest.mark.slow
def test_bench_and_server(exported: Path, environment: Environment, zoo: Zoo) -> None:
    rows = json.loads(zoo("bench", exported, "--batch", "2", "--seconds", "0.1", "--json").stdout)["rows"]
    assert list(rows[0]["branches"]) == ["0: tiny/glyphnet", "1: tiny/glyphnet", "rest"]
    assert all(taken > 0 for taken in rows[0]["branches"].values())
    image = _digits(environment, "test", 1)[0]
    (answer,) = json.loads(zoo("predict", exported, image, "--json").stdout)
    pixels = decode_image(image)[None]
    found = ask_server(exported, pixels, environment.cache)
    np.testing.assert_allclose(found, OnnxModel(exported, device="cpu").run({INPUT: pixels}, [OUTPUT])[0], atol=1e-5)
    assert found.shape == (1, 10)
    assert answer["top"][0]["label"] == str(found.argmax())


def test_its_page(chained: Path, coarse: Path, zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("report", chained, "--out", tmp_path / "fine.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "fine.html").read_text()
    for words in ("What comes before", "even, odd", "after the models before: kept", f"--after {coarse}"):
        assert words in page


def test_what_tells_nothing_new_is_left_out(environment: Environment, zoo: Zoo, tmp_path: Path) -> None:
    draw = random.Random(0)
    data = _groups(environment, tmp_path / "nonsense.csv", 2, lambda digit: draw.choice("abc"))
    finetune(_request(data, strategy="probe"), tmp_path / "nonsense", environment, Silent())
    words = ["--backbone", "tiny/glyphnet", "--shots", "20", "--val-share", "0.3", "--input-size", "16"]
    words += ["--drop-stages", "2", "--after", "nonsense", "--device", "cpu", "--threads", "1", "--out", "run"]
    done = zoo("finetune", "builtin:digits", *words)
    assert done.returncode == 0, done.stderr
    assert "tiny/glyphnet alone: what the runs before it say does not clearly make it better" in done.stderr
    assert "kept: single, tiny/glyphnet: test accuracy" in done.stdout
    assert "next: zoo export run" in done.stdout
    made = RunFolder.open_complete(tmp_path / "run")
    assert made.read("result")["method"] == "single"
    assert len(made.members) == 1
    assert load_cascade(made) == After(edges=())
    assert zoo("export", "run", "-o", "run.onnx").returncode == 0
    assert "so it answers alone" in Path(json.loads(zoo("report", "run", "--json").stdout)["report"]).read_text()


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_what_cannot_come_before_is_refused(
    chained: Path, coarse: Path, environment: Environment, tmp_path: Path
) -> None:
    few = make_folder(tmp_path / "few", 3, 2)
    begun = _copy(coarse, tmp_path / "begun")
    (begun / "result.json").unlink()
    weightless = _copy(coarse, tmp_path / "weightless")
    (weightless / "weights.safetensors").unlink()
    for runs, options, error, words in (
        ([chained], {}, UsageError, "--after .*fine: already a cascade; give a run that is one model"),
        ([coarse, coarse], {}, UsageError, "the same model given twice; twins tell nothing new"),
        ([coarse, _copy(coarse, tmp_path / "copy")], {}, UsageError, "--after .*copy: the same model given twice"),
        ([few], {}, RunError, "not a run folder: .*few"),
        ([begun], {}, RunError, "run is not complete: .*begun"),
        ([weightless], {}, RunError, "weights of a run are gone: .*weightless"),
        (
            [coarse],
            {"strategy": "full"},
            UsageError,
            "--strategy full: what comes --after a run is computed",
        ),
        ([coarse], {"head": "mlp"}, UsageError, "--head mlp: what comes --after a run has one linear head"),
        ([coarse], {"data": str(few), "shots": None, "val_share": None}, DataError, "no validation images"),
    ):
        with pytest.raises(error, match=words):
            after(_fine(**options), runs, tmp_path / "run", environment, Silent())
    without = Environment(catalogue=Catalogue(()), cache=environment.cache)
    with pytest.raises(PluginError, match="the plugin of the run's backbone tiny/glyphnet is not installed"):
        after(_fine(), [coarse], tmp_path / "run", without, Silent())
    assert not (tmp_path / "run").exists()


def test_what_a_run_was_made_from_must_be_there(environment: Environment, tmp_path: Path, vit_weights: Path) -> None:
    images, weights = make_folder(tmp_path / "shapes", 12, 4), tmp_path / "own.safetensors"
    shutil.copyfile(vit_weights, weights)
    path = tmp_path / "before"
    options: dict[str, object] = {"backbone": "timm/test_vit", "weights": str(weights), "strategy": "probe"}
    finetune(_request(str(images), **options), path, environment, Silent())
    request = _request(str(_copy(images, tmp_path / "same")), val_share=0.3)

    def fails(error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            after(request, [path], tmp_path / "run", environment, Silent())

    gone = next(images.rglob("train/*/*.png"))
    gone.rename(tmp_path / "gone.png")
    fails(DataError, "image that .*before was trained on is gone or has changed: .*png; restore it or train that run")
    (tmp_path / "gone.png").rename(gone)
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    fails(RunError, "pretrained weights of .*before have changed since")
    weights.unlink()
    fails(WeightsError, "no such weights file")
    # Nothing of it is needed for images that the run was not fitted on.
    other = _request(str(make_folder(tmp_path / "other", 40, 4)), val_share=0.3)
    shutil.rmtree(images)
    for file in sorted((tmp_path / "other" / "train").rglob("0[01]?.*")):
        file.unlink()
    result = after(other, [path], tmp_path / "run", environment, Silent())
    assert result["upstream"][0]["left_out"] == 0


def test_a_class_of_one_image_cannot_be_left_out(environment: Environment, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "shapes", 12, 4)
    finetune(_request(str(images), strategy="probe", shots=1), tmp_path / "before", environment, Silent())
    with pytest.raises(DataError, match=r"class with one training image: 'bars' of .*before"):
        after(_request(str(images), val_share=0.3), [tmp_path / "before"], tmp_path / "run", environment, Silent())


def test_a_gate_takes_no_chain(chained: Path, coarse: Path, environment: Environment, tmp_path: Path) -> None:
    request = GateRequest(runs=(coarse, chained), data="builtin:digits")
    with pytest.raises(UsageError, match=r"already a cascade: .*fine"):
        gate(request, tmp_path / "gate", catalogue=environment.catalogue, cache=environment.cache, progress=Silent())


def test_edges_that_do_not_fit_are_refused(chained: Path, tmp_path: Path) -> None:
    run = RunFolder(_copy(chained, tmp_path / "chain"))

    def fails(words: str, *ends: tuple[int, int], kind: str = "probabilities") -> None:
        edges = [{"from": source, "to": target, "type": kind} for source, target in ends]
        run.write("cascade", {"kind": "after", "edges": edges})
        with pytest.raises(RunError, match=words):
            load_cascade(run)

    fails("unknown type of edge: 'boxes' in cascade.json of .*chain; known: probabilities", (0, 1), kind="boxes")
    fails("circular chain: (0 -> 1 -> 0|1 -> 0 -> 1) in cascade.json", (0, 1), (1, 0))
    fails("circular chain: 1 -> 1 in cascade.json", (1, 1))
    fails("edge to an earlier member: 1 -> 0 in cascade.json", (1, 0))
    fails("does not fit 2 members", (0, 2))
    fails("does not fit 2 members", (0, 1), (0, 1))
    run.write("cascade", {"kind": "after", "edges": [{"from": 0}]})
    with pytest.raises(RunError, match=r"cascade.json of .*chain does not fit: KeyError\('to'\)"):
        load_cascade(run)
    save_file({"0-1": torch.zeros(2, 10)}, run.edges)
    fails(r"the matrix 0-1 is \(2, 10\), expected \(10, 2\)", (0, 1))
    save_file({"0-2": torch.zeros(10, 2)}, run.edges)
    fails("the matrix 0-1 is missing", (0, 1))
    run.edges.unlink()
    fails("edges of .*chain cannot be read", (0, 1))


def test_options_that_do_not_go_together(coarse: Path, chained: Path, zoo: Zoo) -> None:
    words = ("finetune", "builtin:digits", "--backbone", "tiny/glyphnet", "--after", coarse)
    for more, said in (
        (("--cascade", "fuse"), "--cascade fuse: not with --after"),
        (("--dry-run",), "--dry-run: not with --after"),
        (("--compare-scratch",), "--compare-scratch: not with --after"),
        (("--backbone", "timm/test_vit"), "--backbone: 2 of them; one comes --after finished runs"),
        (("--epochs", "3"), "--epochs means nothing to a probe"),
    ):
        done = zoo(*words, *more)
        assert done.returncode == UsageError.exit_code, done.stderr
        assert said in done.stderr
    done = zoo("finetune", "--resume", "--out", chained, "--after", coarse)
    assert "leave out --after" in done.stderr
