"""Folders, archives, CSV files and the built-in set become one manifest; what cannot be used is told by name."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import SHAPES, make_folder

from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.errors import DataError, UsageError
from zoo.progress import Silent


def _open(data: object, cache: Path, **options: Any) -> DataSet:
    return open_dataset(str(data), cache=cache, progress=Silent(), **options)


def _per_class(data: DataSet, split: Any) -> dict[int, int]:
    return dict(Counter(sample.label for sample in data.of(split)))


def test_named_splits_are_kept(dataset: Path, cache: Path) -> None:
    data = _open(dataset, cache)
    assert data.classes == SHAPES
    assert all(sample.file.startswith("test/") for sample in data.of("test"))
    assert _per_class(data, "test") == {0: 8, 1: 8, 2: 8}
    assert _per_class(data, "val") == {0: 2, 1: 2, 2: 2}  # a fifth of twelve
    assert _per_class(data, "train") == {0: 10, 1: 10, 2: 10}
    assert DataSet.from_json(data.to_json()) == data


def test_plain_class_folders_get_a_stratified_split_by_seed(tmp_path: Path, dataset: Path, cache: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(dataset / "train", plain)
    first, again, other = _open(plain, cache), _open(plain, cache), _open(plain, cache, seed=1)
    assert first == again
    assert {s.file for s in first.of("test")} != {s.file for s in other.of("test")}
    assert _per_class(first, "test") == {0: 2, 1: 2, 2: 2}


def test_shots_draw_from_training_only(dataset: Path, cache: Path) -> None:
    data = _open(dataset, cache, shots=3)
    assert data.counts() == {"train": 9, "test": 24}  # too few to hold some back
    assert _open(dataset, cache, shots=3, val_share=0.34).counts() == {"train": 6, "val": 3, "test": 24}
    with pytest.raises(DataError, match="class 'bars' has 12 training images; --shots 13 needs as many"):
        _open(dataset, cache, shots=13)


def test_fingerprint_follows_content_not_names(dataset: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    assert _open(copy, cache).fingerprint == _open(dataset, cache).fingerprint
    shutil.copy(copy / "train/dots/000.png", copy / "train/bars/000.png")
    assert _open(copy, cache).fingerprint != _open(dataset, cache).fingerprint


def test_zip_of_one_folder(dataset: Path, cache: Path, tmp_path: Path) -> None:
    archive = tmp_path / "shapes.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(dataset.rglob("*.*")):
            file.write(path, f"shapes/{path.relative_to(dataset)}")
        file.writestr("__MACOSX/shapes/._x.jpg", "resource fork")
    assert _open(archive, cache).fingerprint == _open(dataset, cache).fingerprint
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"damaged archive: .*damaged\.zip"):
        _open(damaged, cache)
    assert not list((cache / "data").glob(".partial*"))


def test_csv(dataset: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "images")
    rows = [
        f"images/{path.relative_to(dataset)},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(dataset.rglob("*.*"))
    ]
    table = tmp_path / "list.csv"
    table.write_text("\ufeffImage,Label,Split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert _open(table, cache).fingerprint == _open(dataset, cache).fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\n", "columns of .*: a, b; name one of path, file"),
        ("path,label\nmissing.png,dots\n", r"no such file: missing\.png in .*list\.csv line 2"),
        ("path,label\n,dots\n", "empty path or label: .* line 2"),
        ("path,label\n", "no lines in"),
        ("path,label,split\nlist.csv,dots,later\n", "unknown split: 'later' in .* line 2; use train, val or test"),
    ],
)
def test_bad_csv(text: str, message: str, cache: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        _open(table, cache)


def test_digits(cache: Path) -> None:
    pytest.importorskip("sklearn")
    data = _open("builtin:digits", cache, shots=3)
    assert data.classes == tuple("0123456789")
    assert data.counts() == {"train": 30, "test": 599}
    whole = _open("builtin:digits", cache)
    assert len(whole.samples) == 1797
    assert not {s.sha256 for s in data.of("train")} & {s.sha256 for s in data.of("test")}
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        _open("builtin:digit", cache)


def test_unusable_folders(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"no such data set: .*nowhere"):
        _open(tmp_path / "nowhere", cache)
    with pytest.raises(DataError, match=r"no images in .*expected train/<class>"):
        _open(tmp_path, cache)
    data = make_folder(tmp_path / "data", 3, 1)
    for split in ("train", "test"):
        shutil.rmtree(data / split / "dots")
        shutil.rmtree(data / split / "rings")
    with pytest.raises(DataError, match=r"one class only: 'bars'"):
        _open(data, cache)
    shutil.rmtree(data / "test")
    single = data / "train" / "dots"
    single.mkdir()
    shutil.copy(data / "train/bars/000.png", single / "000.png")
    with pytest.raises(DataError, match=r"class with one image: 'dots'"):
        _open(data, cache)
    (data / "notes.txt").write_text("not a data set")
    with pytest.raises(DataError, match=r"not a data set: .*notes\.txt"):
        _open(data / "notes.txt", cache)


def test_corrupt_images_fail_or_are_skipped(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "data", 3, 2)
    bad = root / "train" / "dots" / "001.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    data = _open(root, cache)
    with pytest.raises(DataError, match=rf"cannot read image: {bad}.*--on-bad-sample skip"):
        check_images(data, ImageStore(data), on_bad="fail", threads=2, progress=Silent())
    kept, messages = check_images(data, ImageStore(data), on_bad="skip", threads=2, progress=Silent())
    assert [str(bad) in message for message in messages] == [True]
    assert len(kept.samples) == len(data.samples) - 1
    for number in ("000.png", "002.png"):
        (root / "train" / "dots" / number).write_bytes(b"gone too")
    data = _open(root, cache)
    with pytest.raises(DataError, match=r"class without a readable training image: 'dots'"):
        check_images(data, ImageStore(data), on_bad="skip", threads=2, progress=Silent())
