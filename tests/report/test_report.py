"""A report tells what the records say, fetches nothing, and believes no name it prints."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SHAPES, draw
from PIL import Image

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import Sample
from zoo.errors import RunError, UsageError
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.run import Environment, finetune
from zoo.progress import Silent
from zoo.report.held_out import HeldOut
from zoo.report.run import report

Zoo = Callable[..., Any]


@pytest.fixture(scope="module")
def twins(dataset: Path, environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished lp-ft run with its twin from scratch inside."""
    folder = tmp_path_factory.mktemp("runs") / "lp-ft"
    for strategy, out in (("lp-ft", folder), ("scratch", folder / "scratch")):
        request = FinetuneRequest(
            data=str(dataset), backbone="tiny/glyphnet", strategy=strategy, epochs=2, device="cpu", threads=1
        )
        finetune(request, out, environment, Silent())
    return folder


def _finetune(data: Path, out: Path, environment: Environment, **options: Any) -> Path:
    request = FinetuneRequest(
        data=str(data), backbone="tiny/glyphnet", strategy="probe", device="cpu", threads=1, **options
    )
    finetune(request, out, environment, Silent())
    return out


def _page(run: Path, out: Path) -> str:
    """The report as read by a person: non-breaking spaces are spaces."""
    report(run, out)
    return out.read_text(encoding="utf-8").replace("\u00a0", " ")


def _command(page: str) -> str:
    """The command line of a page, on one line."""
    found = re.search(r"<pre><code>(.*?)</code>", page, re.DOTALL)
    assert found is not None
    return html.unescape(re.sub(r" \\\n +", " ", found[1]))


def _edit(run: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = run / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def _mislead(run: Path) -> None:
    """Makes the run call every test image the class after its own, surer of each than of the one before."""
    truth = [s["label"] for s in json.loads((run / "dataset.json").read_text())["samples"] if s["split"] == "test"]
    sure = np.linspace(0.5, 0.99, len(truth))
    wrong = np.zeros((len(truth), len(SHAPES)), np.float32)
    for row, (label, confidence) in enumerate(zip(truth, sure, strict=True)):
        wrong[row, label], wrong[row, (label + 1) % len(SHAPES)] = 1 - confidence, confidence
    RunFolder.open(run).write_predictions({"test": wrong})


@pytest.fixture
def misled(run: Path, tmp_path: Path) -> Path:
    """A copy of the probe that is wrong about everything."""
    copy = tmp_path / "misled"
    shutil.copytree(run, copy)
    _mislead(copy)
    return copy


def test_numbers_are_those_of_evaluate(run: Path, dataset: Path, zoo: Zoo, tmp_path: Path) -> None:
    measured = json.loads(zoo("evaluate", run, dataset, "--json").stdout)
    out = tmp_path / "page.html"
    told = json.loads(zoo("report", run, "-o", out, "--json").stdout)
    assert told["report"] == str(out)
    assert (told["split"], told["n"], told["accuracy"]) == ("test", measured["n"], measured["accuracy"])
    assert told["interval95"] == measured["interval95"]
    assert told["ece"] == pytest.approx(measured["ece"], abs=1e-6)
    page = out.read_text(encoding="utf-8").replace("\u00a0", " ")
    low, high = measured["interval95"]
    assert f"{measured['accuracy']:.1%}".replace("%", " %") in page
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in page
    for row in measured["per_class"].values():
        for share in ("precision", "recall"):
            assert f"{100 * row[share]:.1f} %" in page
            assert "{:.1f} to {:.1f} %".format(*(100 * bound for bound in row[f"{share}_interval95"])) in page


def test_default_place_and_words(run: Path, zoo: Zoo) -> None:
    done = zoo("report", run)
    assert done.returncode == 0, done.stderr
    assert f"report: {run / 'report.html'}" in done.stdout
    assert (run / "report.html").is_file()
    assert zoo("report", run).returncode == 0  # our own page is written anew


def test_pairs_most_often_mistaken_are_found_among_thousands_of_classes() -> None:
    classes = tuple(f"class {number}" for number in range(3000))
    truth, called = [7] * 4 + [2999, 2999, 5], [7, 8, 8, 8, 0, 5, 2999]
    samples = [Sample(file=Path(str(row)), label=label, split="test", sha256="") for row, label in enumerate(truth)]
    probabilities = np.zeros((len(truth), len(classes)), np.float32)
    probabilities[range(len(truth)), called] = 1
    held_out = HeldOut(split="test", classes=classes, samples=samples, probabilities=probabilities)
    tracemalloc.start()
    try:
        pairs = held_out.most_confused(3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Between equals, in the order of the classes.
    assert pairs == [
        ("class 7", "class 8", 3, 4),
        ("class 5", "class 2999", 1, 1),
        ("class 2999", "class 0", 1, 2),
    ]
    assert peak < len(classes) ** 2
    right = replace(held_out, samples=[replace(sample, label=at) for sample, at in zip(samples, called, strict=True)])
    assert right.most_confused(3) == []


def test_a_probe_has_no_curve(run: Path, tmp_path: Path) -> None:
    page = _page(run, tmp_path / "page.html")
    assert "this strategy takes no steps" in page
    assert "--compare-scratch" in page
    assert re.search(r"stage 0</th><td>frozen</td>", page)
    assert re.search(r"head</th><td>computed</td>", page)


def test_transfer_beside_its_twin(twins: Path, tmp_path: Path) -> None:
    told = report(twins, tmp_path / "page.html")["transfer"]
    assert told["split"] == "validation"
    for name, folder in (("transfer", twins), ("scratch", twins / "scratch")):
        rows = RunFolder.open(folder).read_metrics()
        assert told[name]["start"] == rows[0]["val_accuracy"]
        assert told[name]["asymptote"] == rows[-1]["val_accuracy"]
        assert told[name]["test_accuracy"] == RunFolder.open(folder).read("result")["test_accuracy"]
    assert told["level"] == pytest.approx(0.9 * told["scratch"]["asymptote"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for title in ("Accuracy while training", "Loss while training", "Transfer against scratch"):
        assert f"<title>{title}</title>" in page


def test_a_probe_beside_a_twin_is_a_level_line(run: Path, twins: Path, tmp_path: Path) -> None:
    copy = tmp_path / "probe"
    shutil.copytree(run, copy)
    shutil.copytree(twins / "scratch", copy / "scratch")
    told = report(copy)["transfer"]["transfer"]
    accuracy = RunFolder.open(copy).read("result")["val_accuracy"]
    assert (told["start"], told["asymptote"]) == (accuracy, accuracy)


def test_an_unfinished_twin_is_left_out(twins: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(twins, copy)
    (copy / "scratch" / "result.json").unlink()
    assert report(copy)["transfer"] is None


def test_parameters_are_counted_from_the_weights(twins: Path, environment: Environment, tmp_path: Path) -> None:
    """BatchNorm statistics are none; the backbone's sum is what its spec declares."""
    page = _page(twins, tmp_path / "page.html")
    counts = [int(n.replace(",", "")) for n in re.findall(r'<td>trained</td><td class="number">([\d,]+)', page)]
    backbone, _ = environment.catalogue.find_backbone("tiny/glyphnet")
    assert sum(counts[:-1]) == backbone.spec.params
    assert counts[-1] == (backbone.spec.num_features + 1) * len(SHAPES)
    assert f"{sum(counts):,} of {sum(counts):,} parameters learnt" in page


def test_stages_are_thawed_in_turn(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = FinetuneRequest(
        data=str(dataset), backbone="tiny/glyphnet", strategy="gradual", epochs=4, device="cpu", threads=1
    )
    finetune(request, tmp_path / "run", environment, Silent())
    page = _page(tmp_path / "run", tmp_path / "page.html")
    # Four stages, one step an epoch.
    states = re.findall(r"(stage \d)</th><td>([^<]+)</td>", page)
    assert states == [
        ("stage 0", "trained from step 3"),
        ("stage 1", "trained from step 2"),
        ("stage 2", "trained from step 1"),
        ("stage 3", "trained"),
    ]


def test_the_command_line_leads_to_the_same_request(twins: Path, tmp_path: Path, zoo: Zoo) -> None:
    page = _page(twins, tmp_path / "page.html")
    words = shlex.split(_command(page))
    assert words[:2] == ["zoo", "finetune"]
    assert "--batch-size" not in words  # a default
    again = tmp_path / "again"
    done = zoo(*words[1:], "--out", again)
    assert done.returncode == 0, done.stderr
    assert RunFolder.open(again).read("request") == RunFolder.open(twins).read("request")


def test_options_of_the_head_and_what_is_switched_off_are_repeated(
    dataset: Path, environment: Environment, tmp_path: Path, zoo: Zoo
) -> None:
    options = {"head": "mlp", "head_options": {"hidden": (8, 4), "dropout": 0.1}, "mirror": False}
    run = _finetune(dataset, tmp_path / "mlp", environment, **options)
    command = _command(_page(run, tmp_path / "page.html"))
    assert "--head mlp " in command
    assert " --no-mirror " in command
    assert command.endswith("--hidden 8,4 --dropout 0.1")


def test_the_surest_mistakes_are_shown(misled: Path, tmp_path: Path) -> None:
    page = _page(misled, tmp_path / "page.html")
    images = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)">', page)
    assert len(images) == 12
    assert images[0] == f"{SHAPES[2]}, called {SHAPES[0]}"
    assert f"<b>{SHAPES[0]}</b> 99.0 %" in page


def test_images_that_are_not_what_they_were(misled: Path, dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    _edit(misled, "dataset", lambda record: record.update(root=str(copy)))
    last = sorted((copy / "test" / SHAPES[2]).iterdir())
    last[-1].unlink()
    Image.fromarray(draw(SHAPES[0], 7)).save(last[-2])
    page = _page(misled, tmp_path / "page.html")
    assert page.count("file is gone") == 1
    assert page.count("file has changed since") == 1
    assert page.count("<img ") == 10


class _Fetched(HTMLParser):
    """Collects tags, and every address a browser would follow by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data", "action")
        ]


def test_hostile_names_stay_words_and_nothing_is_fetched(misled: Path, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "\"><img src=http://evil.example/x onerror='alert(1)'>", "{{ 7 * 7 }} & co"]
    _edit(misled, "dataset", lambda record: record.update(classes=names, source="</title><script>1</script>"))
    _edit(misled, "request", lambda record: record["model"].update(classes=names))
    page = _page(misled, tmp_path / "page.html")
    parser = _Fetched()
    parser.feed(page)
    assert "script" not in parser.tags
    assert not parser.tags & {"link", "iframe", "object"}
    assert all(address.startswith("data:image/jpeg;base64,") for address in parser.addresses)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }} &amp; co" in page


def test_without_a_test_split_validation_speaks_and_says_so(environment: Environment, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for shape in SHAPES:
        for number, split in enumerate(("train", "val", "val")):
            Image.fromarray(draw(shape, number)).save(tmp_path / f"{shape}{number}.png")
            rows.append(f"{shape}{number}.png,{shape},{split}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    run = _finetune(tmp_path / "data.csv", tmp_path / "run", environment)
    told = report(run)
    assert (told["split"], told["n"]) == ("val", 6)
    assert told["accuracy"] == RunFolder.open(run).read("result")["val_accuracy"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "all figures are of validation images, which also chose this model" in page


def test_too_few_images_for_validation(dataset: Path, environment: Environment, tmp_path: Path) -> None:
    request = FinetuneRequest(
        data=str(dataset), backbone="tiny/glyphnet", shots=3, epochs=1, device="cpu", threads=1, strategy="lp-ft"
    )
    finetune(request, tmp_path / "run", environment, Silent())
    page = _page(tmp_path / "run", tmp_path / "page.html")
    assert "<title>Loss while training</title>" in page
    assert "<title>Accuracy while training</title>" not in page


def test_nothing_of_torch_is_needed(run: Path, tmp_path: Path) -> None:
    for name in ("torch", "safetensors", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    code = f"from pathlib import Path; from zoo.report.run import report; report(Path({str(run)!r}), Path('page.html'))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_many_classes(misled: Path, tmp_path: Path) -> None:
    """A matrix of 120 classes has no room for words: its pairs are told in a table."""
    names = [f"class {number}" for number in range(120)]

    def spread(record: dict[str, Any]) -> None:
        samples = [sample for sample in record["samples"] if sample["split"] == "test"]
        record["classes"] = names
        record["samples"] = [{**samples[0], "label": label} for label in range(120) for _ in range(2)]

    _edit(misled, "dataset", spread)
    _edit(misled, "request", lambda record: record["model"].update(classes=names))
    probabilities = np.repeat(np.eye(120, dtype=np.float32), 2, axis=0)
    probabilities[[0, 1]] = probabilities[[2, 3]]
    RunFolder.open(misled).write_predictions({"test": probabilities})
    page = _page(misled, tmp_path / "page.html")
    matrix = page[page.index("<title>Confusion matrix") : page.index("Most confused")]
    assert matrix.count("<rect") == 1 + 120  # the frame, and one cell in each row
    assert "class 0 called class 1: 2 of 2 (100.0 %)" in matrix
    assert matrix.count("<text") == 2
    assert "<th>class 0</th><td>class 1</td>" in page


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_damaged_predictions(misled: Path, content: bytes) -> None:
    (misled / "predictions.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot read .*predictions.npz"):
        report(misled)


def test_predictions_of_other_data(misled: Path) -> None:
    RunFolder.open(misled).write_predictions({"test": np.zeros((3, 5), np.float32)})
    with pytest.raises(RunError, match=r"does not fit its data set: test is \(3, 5\), not \(24, 3\)"):
        report(misled)


def test_a_run_that_held_nothing_out(misled: Path) -> None:
    RunFolder.open(misled).write_predictions({})
    with pytest.raises(RunError, match="run held no images out"):
        report(misled)


def test_damaged_records(misled: Path) -> None:
    _edit(misled, "result", lambda record: record.pop("plan"))
    with pytest.raises(RunError, match=r"records of .* do not fit: KeyError"):
        report(misled)


def test_damaged_weights(misled: Path) -> None:
    (misled / "weights.safetensors").write_bytes(b"1234")
    with pytest.raises(RunError, match=r"cannot read .*weights.safetensors"):
        report(misled)


def test_an_unfinished_run(misled: Path, zoo: Zoo) -> None:
    (misled / "result.json").unlink()
    done = zoo("report", misled)
    assert done.returncode == 7
    assert "run is not complete" in done.stderr


def test_files_of_others_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(UsageError, match="not a report"):
        report(run, mine)
    with pytest.raises(UsageError, match="no such folder"):
        report(run, tmp_path / "nowhere" / "page.html")
    assert mine.read_text() == "<p>mine</p>"
