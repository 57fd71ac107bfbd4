"""Frozen features are computed once, by whatever engine is faster, and a damaged or full disk costs time, not truth."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore
from zoo.finetune import engines, extract
from zoo.finetune.cache import Array, FeatureCache
from zoo.finetune.extract import Extractor, Surroundings
from zoo.finetune.resolve import Environment
from zoo.nn.batches import View
from zoo.nn.engine import make_fabric
from zoo.nn.taps import PooledTaps, make_taps
from zoo.progress import Silent


class Listening(Silent):
    """Progress that keeps the remarks."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> DataSet:
    return open_dataset(str(dataset), cache=tmp_path, progress=Silent())


@pytest.fixture
def make(environment: Environment, data: DataSet, tmp_path: Path) -> Callable[..., tuple[Extractor, Listening]]:
    """Features of glyphnet with the weights of `seed`, kept in `tmp_path`."""

    def call(seed: int = 0, **cache_options: int) -> tuple[Extractor, Listening]:
        torch.manual_seed(seed)
        entry, _ = environment.catalogue.find_backbone("tiny/glyphnet")
        spec, listening = entry.spec, Listening()
        around = Surroundings(
            store=ImageStore(data),
            input_spec=spec.input,
            fabric=make_fabric("cpu", 2),
            cache=FeatureCache(tmp_path / "features", progress=listening, **cache_options),
            engines=tmp_path / "engines",
            progress=listening,
        )
        module = PooledTaps(spec.split(spec.build()), make_taps((0, 2), spec.stages))
        return Extractor(module, name="taps", macs=spec.macs, around=around), listening

    return call


def _arrays(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("features/*/array.npy"))


def test_taps_stand_before_the_embedding(make: Callable[..., tuple[Extractor, Listening]], data: DataSet) -> None:
    found = make()[0].of(data.samples, "images")
    module = make()[0]._module
    with torch.no_grad():
        images = make()[0]._images(data.samples, View())
        taps = module.backbone.activations(images)
        expected = torch.cat([taps[0].mean((2, 3)), taps[2].mean((2, 3)), module.backbone(images)], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_onnxruntime_gives_what_torch_gives(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make()[0].of(data.samples, "images")
    for path in _arrays(tmp_path):
        path.unlink()
    monkeypatch.setattr(extract, "WORTH_MACS", 0)
    found = make()[0].of(data.samples, "images")
    choice = json.loads(next(tmp_path.glob("engines/*/choice.json")).read_text())
    assert choice["engine"] == ("onnxruntime" if choice["onnxruntime_ms"] < choice["torch_ms"] else "torch")
    np.testing.assert_allclose(found, live, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["module.onnx", "choice.json"])
def test_a_damaged_engine_is_prepared_again(
    file: str,
    make: Callable[..., tuple[Extractor, Listening]],
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extract, "WORTH_MACS", 0)
    monkeypatch.setattr(engines, "_milliseconds", lambda function, _: 1.0 if "in_torch" in str(function) else 0.5)
    first = make()[0].of(data.samples, "images").copy()
    for path in _arrays(tmp_path):
        path.unlink()
    prepared = next(tmp_path.glob(f"engines/*/{file}"))
    prepared.write_bytes(prepared.read_bytes()[: prepared.stat().st_size // 2])
    extractor, listening = make()
    assert np.array_equal(first, extractor.of(data.samples, "images"))
    assert [message for message in listening.said if "engine is damaged" in message]


def test_the_second_time_comes_from_disk(make: Callable[..., tuple[Extractor, Listening]], data: DataSet) -> None:
    first = make()[0].of(data.samples, "images")
    again, listening = make()
    second = again.of(data.samples, "images")
    assert np.array_equal(first, second)
    assert len(again._around.store._kept) == extract._CHECKED_ROWS  # only the rows checked were looked at
    assert listening.said == []


def test_other_weights_have_other_features(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path
) -> None:
    first = make(0)[0].of(data.samples, "images")
    second = make(1)[0].of(data.samples, "images")
    assert not np.allclose(first, second)
    assert len(_arrays(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["cut in half", "other numbers", "emptied"])
def test_damaged_features_are_computed_again(
    damage: str, make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path
) -> None:
    first = make()[0].of(data.samples, "images").copy()  # not the file itself, which is about to be damaged
    (path,) = _arrays(tmp_path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut in half": content[: len(content) // 2],
            "other numbers": content[:128] + bytes(reversed(content[128:])),
            "emptied": b"",
        }[damage]
    )
    features, listening = make()
    second = features.of(data.samples, "images")
    assert np.array_equal(first, second)
    assert [message for message in listening.said if "damaged" in message]


def test_a_full_disk_costs_a_remark(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()[0].of(data.samples, "images")
    for path in _arrays(tmp_path):
        path.unlink()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # What the operating system says when it cannot reserve the space.
    monkeypatch.setattr(os, "posix_fallocate", full)
    features, listening = make()
    second = features.of(data.samples, "images")
    assert np.array_equal(first, second)
    assert listening.said[-1].endswith("(No space left on device)")
    assert _arrays(tmp_path) == []


def test_a_cache_that_takes_nothing_costs_remarks(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make()[0].of(data.samples, "images").copy()
    for path in _arrays(tmp_path):
        path.unlink()
    monkeypatch.setattr(extract, "WORTH_MACS", 0)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # What the operating system says when a new folder is to be made.
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    features, listening = make()
    np.testing.assert_allclose(features.of(data.samples, "images"), expected, rtol=1e-4, atol=1e-5)
    assert [message.partition(":")[0] for message in listening.said] == [
        "features on disk are damaged, computing them again",
        "features are not kept on disk",
        "no engine is prepared, torch computes",
    ]


def test_what_another_process_removes_while_it_is_read_is_still_there(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, progress=Silent())

    def fill(rows: Array) -> None:
        rows[:] = 3

    def removed(_: Array) -> bool:
        shutil.rmtree(next(tmp_path.iterdir()))
        return True

    cache.get({}, (2, 2), np.float32, fill, lambda _: True)
    assert cache.get({}, (2, 2), np.float32, fill, removed).tolist() == [[3, 3], [3, 3]]


def test_an_array_of_another_kind_is_made_again(tmp_path: Path) -> None:
    listening = Listening()
    cache = FeatureCache(tmp_path, progress=listening)

    def fill(rows: Array) -> None:
        rows[:] = 3

    cache.get({}, (2, 2), np.float32, fill, lambda _: True)
    for other in (np.zeros((2, 2)), np.zeros((3, 2), np.float32)):
        np.save(next(tmp_path.glob("*/array.npy")), other)
        assert cache.get({}, (2, 2), np.float32, fill, lambda _: True).tolist() == [[3, 3], [3, 3]]
    assert len(listening.said) == 2


def test_the_oldest_go_when_there_is_no_room(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path
) -> None:
    for seed in range(3):
        make(seed, limit=1)[0].of(data.samples, "images")
    assert len(_arrays(tmp_path)) == 1


def test_what_a_killed_process_left_goes_in_time(
    make: Callable[..., tuple[Extractor, Listening]], data: DataSet, tmp_path: Path
) -> None:
    new, old = (tmp_path / "features" / f".partial-{name}" for name in ("new", "old"))
    for folder in (new, old):
        folder.mkdir(parents=True)
        (folder / "array.npy").write_bytes(bytes(1000))
    os.utime(old, (0, 0))
    make()[0].of(data.samples, "images")
    assert (new.exists(), old.exists()) == (True, False)


def test_two_runs_share_one_cache(dataset: Path, tmp_path: Path) -> None:
    commands = [
        [
            *(sys.executable, "-m", "zoo_cli", "finetune", str(dataset), "--backbone", "tiny/glyphnet"),
            *("--strategy", "probe", "--device", "cpu", "--threads", "1", "--json", "--out", str(tmp_path / name)),
        ]
        for name in ("a", "b")
    ]
    environ = {**os.environ, "ZOO_CACHE": str(tmp_path / "cache")}
    started = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for command in commands]
    results = [json.loads(process.communicate()[0]) for process in started]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert list((tmp_path / "cache" / "features").glob(".partial-*")) == []
