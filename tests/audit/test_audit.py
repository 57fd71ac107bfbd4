"""Planted faults are found, each as what it is, and clean images are left alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_folder, real_weights
from PIL import Image

from zoo.audit.run import check_data
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.progress import Silent

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes that nothing is wrong with, every image its own."""
    return make_folder(tmp_path / "data", 12, 6)


def _check(data: Path, environment: Environment, **options: Any) -> dict[str, Any]:
    asked = FinetuneRequest(data=str(data), backbone="tiny/glyphnet", device="cpu", threads=1, **options)
    return check_data(asked, environment, Silent())


def _kinds(found: dict[str, Any]) -> dict[str, list[set[str]]]:
    kinds: dict[str, list[set[str]]] = {}
    for finding in found["findings"]:
        kinds.setdefault(finding["kind"], []).append(set(finding["files"]))
    return kinds


def _image(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def test_nothing_is_wrong_with_clean_data(data: Path, environment: Environment) -> None:
    found = _check(data, environment)
    assert found["ok"]
    assert [finding for finding in found["findings"] if finding["severity"] != "remark"] == []
    assert found["labels_judged_by"] == "tiny/glyphnet"
    assert found["statistics"]["images"] == 54
    assert found["statistics"]["classes"]["bars"]["test"] == 6


def test_what_cannot_be_read(data: Path, environment: Environment) -> None:
    cut, wrong = data / "train/bars/001.jpg", data / "test/dots/000.png"
    cut.write_bytes(cut.read_bytes()[:400])
    wrong.write_bytes(b"not an image")
    found = _check(data, environment)
    assert not found["ok"]
    assert sorted(map(sorted, _kinds(found)["unreadable"])) == [["test/dots/000.png"], ["train/bars/001.jpg"]]


def test_duplicates(data: Path, environment: Environment) -> None:
    train, test = data / "train", data / "test"
    (train / "bars" / "twice.png").write_bytes((train / "bars" / "000.png").read_bytes())
    (test / "dots" / "leak.png").write_bytes((train / "dots" / "002.png").read_bytes())
    large = _image(train / "rings" / "004.png")
    large.resize((large.width * 2, large.height * 2)).save(train / "rings" / "large.png")
    _image(train / "rings" / "006.png").save(test / "rings" / "anew.jpg", quality=50)
    (train / "dots" / "both.png").write_bytes((train / "bars" / "008.png").read_bytes())
    kinds = _kinds(_check(data, environment))
    assert kinds["duplicate"] == [{"train/bars/000.png", "train/bars/twice.png"}]
    assert kinds["contradiction"] == [{"train/bars/008.png", "train/dots/both.png"}]
    assert kinds["near duplicate"] == [{"train/rings/004.png", "train/rings/large.png"}]
    assert {"train/dots/002.png", "test/dots/leak.png"} in kinds["leak"]
    assert {"train/rings/006.png", "test/rings/anew.jpg"} in kinds["leak"]


def test_only_the_same_bytes_in_two_splits_stop_training(data: Path, environment: Environment) -> None:
    _image(data / "train/rings/006.png").save(data / "test/rings/anew.jpg", quality=50)
    assert _check(data, environment)["ok"]
    (data / "test/dots/leak.png").write_bytes((data / "train/dots/002.png").read_bytes())
    assert not _check(data, environment)["ok"]


def test_labels_that_look_wrong(environment: Environment, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "more", 50, 2)  # to be sure of anything takes some images
    moved = (data / "train/bars/000.png").rename(data / "train/rings/moved.png")
    found = _check(data, environment)
    assert found["ok"], "a suspicion is no reason to stop"
    suspects = _kinds(found).get("suspect label", [])
    assert {moved.relative_to(data).as_posix()} in suspects
    assert len(suspects) <= 2
    message = next(finding["message"] for finding in found["findings"] if finding["kind"] == "suspect label")
    assert "labelled 'rings'" in message
    assert "looks like 'bars'" in message


def test_classes(data: Path, environment: Environment) -> None:
    for path in sorted((data / "train" / "rings").iterdir())[1:]:
        path.unlink()
    for path in (data / "test" / "dots").iterdir():
        path.rename(data / "train" / "dots" / f"more-{path.name}")
    (data / "test" / "dots").rmdir()
    found = _check(data, environment)
    kinds = _kinds(found)
    assert not found["ok"]
    assert len(kinds["class too small"]) == 1
    assert "class not tested" in kinds
    assert "imbalance" in kinds


def test_images_unlike_the_others(data: Path, environment: Environment) -> None:
    Image.new("RGB", (40, 48), (9, 9, 9)).save(data / "train/bars/black.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 300, 3), np.uint8)).save(
        data / "train/bars/long.png"
    )
    kinds = _kinds(_check(data, environment))
    assert kinds["constant"] == [{"train/bars/black.png"}]
    assert kinds["long"] == [{"train/bars/long.png"}]


def test_without_weights_the_rest_is_checked(data: Path, zoo_process: Zoo) -> None:
    done = zoo_process("data", "check", data, "--json", ZOO_PLUGINS="torchvision,heads")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["labels_judged_by"] is None
    assert "no pretrained weights are at hand" in found["labels_not_judged"]


def test_the_command_and_its_page(data: Path, zoo: Zoo, tmp_path: Path) -> None:
    (data / "test/dots/leak.png").write_bytes((data / "train/dots/002.png").read_bytes())
    page = tmp_path / "audit.html"
    done = zoo("data", "check", data, "--html", page, "--threads", "1")
    assert done.returncode == 3
    assert "error: leak (1)" in done.stdout
    assert "mend the errors before you train" in done.stdout
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert "test/dots/leak.png" in text
    page.write_text("mine")
    refused = zoo("data", "check", data, "--html", page)
    assert (refused.returncode, page.read_text()) == (2, "mine")
    nothing = zoo("data", "check", tmp_path / "nowhere", "--json")
    assert nothing.returncode == 3
    assert "no such data set" in json.loads(nothing.stdout)["error"]


@pytest.mark.slow
def test_faults_planted_in_flowers(shared: Path, environment: Environment, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "audit.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("audit_benchmark", path)
        assert spec is not None
        assert spec.loader is not None
        benchmark = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(benchmark)
    finally:
        sys.path.remove(str(path.parent))
    with zipfile.ZipFile(shared / "data" / "flowers5.zip") as archive:
        archive.extractall(tmp_path / "flowers")
    planted = benchmark.plant(tmp_path / "flowers", 1)
    asked = FinetuneRequest(
        data=str(tmp_path / "flowers"),
        backbone="torchvision/mobilenet_v2",
        weights=real_weights(shared, "mobilenet_v2"),
        input_size=128,
        device="cpu",
    )
    found = check_data(asked, environment, Silent())
    rows = {row["fault"]: row for row in benchmark.recall_and_precision(found, planted)}
    suspects = rows.pop("swapped label")
    assert all(row["found"] == 1 for row in rows.values()), rows
    assert suspects["found"] > 0.35
    assert suspects["of these planted"] > 0.7
    assert not found["ok"]
