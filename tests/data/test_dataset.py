"""Folders, archives, CSV files and the built-in set become one manifest; what cannot be used is told by name."""

from __future__ import annotations

import csv
import os
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import SHAPES, make_folder

from zoo.data.dataset import DataSet
from zoo.data.splits import open_dataset
from zoo.data.store import ImageStore, check_images
from zoo.errors import DataError, UsageError
from zoo.progress import Silent, Task


def _open(data: object, cache: Path, **options: Any) -> DataSet:
    return open_dataset(str(data), cache=cache, progress=Silent(), **options)


def _files(root: Path, *names: str) -> Path:
    """Empty files of these names, for tests that decode none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _per_class(data: DataSet, split: Any) -> dict[int, int]:
    return dict(Counter(sample.label for sample in data.of(split)))


def test_a_rare_class_does_not_take_the_validation_images_of_the_others(cache: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", 12, 2)
    for image in sorted((folder / "train" / "dots").iterdir())[6:]:
        image.unlink()
    assert _per_class(_open(folder, cache), "val") == {0: 2, 1: 1, 2: 2}


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


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (6, 1, r"cannot unpack: .*\.zip \(.*is encrypted.*\); unpack it yourself and give the folder"),
        (8, 97, r"cannot unpack: .*\.zip \(.*compression.*\); unpack it yourself and give the folder"),
    ],
    ids=["encrypted", "unknown-compression"],
)
def test_zip_that_python_cannot_unpack(offset: int, value: int, message: str, cache: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cat/1.jpg", "x")
    content = bytearray(archive.read_bytes())
    # The field stands in the header of the member and, two bytes on, in the directory at the end.
    struct.pack_into("<H", content, offset, value)
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + offset + 2, value)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=message):
        _open(archive, cache)


def test_zip_shows_progress(cache: Path, tmp_path: Path) -> None:
    class Watch(Silent):
        done: dict[str, tuple[float, float]]

        def __init__(self) -> None:
            self.done = {}

        @contextmanager
        def task(self, description: str, total: float) -> Iterator[Task]:
            counter = Count()
            yield counter
            self.done[description] = (counter.steps, total)

    class Count:
        steps = 0.0

        def advance(self, steps: float = 1, note: str | None = None) -> None:
            self.steps += steps

    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
            file.writestr(name, os.urandom(500_000))
    watch = Watch()
    open_dataset(str(archive), cache=cache, progress=watch)
    assert watch.done["unpacking archive"] == (4, 4)
    megabytes = archive.stat().st_size / 1e6
    assert watch.done["reading archive (MB)"] == pytest.approx((megabytes, megabytes))


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
        (
            "path,label\nlist.csv,dots\n./x/../list.csv,bars\n",
            r"file named twice: \./x/\.\./list\.csv in .* line 3, as in line 2; keep one of them",
        ),
        (
            f'path,label\n"{"x" * csv.field_size_limit()}x',
            r"damaged CSV file: .*list\.csv \(field larger .*\); look for",
        ),
        ("path,label\nlist.csv,caf\xe9\n", r"not UTF-8 text: .*list\.csv; save it as `CSV UTF-8`"),
    ],
    ids=["columns", "no-file", "empty", "no-lines", "split", "twice", "quote", "cp1252"],
)
def test_bad_csv(text: str, message: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    table = tmp_path / "list.csv"
    table.write_text(text, encoding="cp1252")
    with pytest.raises(DataError, match=message):
        _open(table, cache)


def test_csv_with_an_index_column(cache: Path, tmp_path: Path) -> None:
    """The first column has no name where pandas wrote the table."""
    names = ["cat1.jpg", "cat2.jpg", "dog1.jpg", "dog2.jpg"]
    _files(tmp_path, *names)
    table = tmp_path / "list.csv"
    table.write_text(",path,label\n" + "".join(f"{row},{name},{name[:3]}\n" for row, name in enumerate(names)))
    assert _open(table, cache).counts() == {"train": 2, "test": 2}


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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("training_set/training_set/cat/1.jpg", "test_set/test_set/cat/1.jpg"),
            r"not a class: test_set in .*data holds no images but folders \(test_set\); expected train/<class>",
        ),
        (
            ("train/train/cat/1.jpg", "train/train/dog/1.jpg", "test/test/cat/1.jpg"),
            r"not a class: test/test in .*data holds no images but folders \(cat\)",
        ),
        (
            ("train/cat/1.jpg", "train/dog/1.jpg", "tests/cat/1.jpg", "dev/cat/1.jpg"),
            r"images in no split: dev, tests beside train in .*data; name such folders train, val or test",
        ),
        (("train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"), "images in no split: test beside train"),
        (
            ("val/cat/1.jpg", "val/dog/1.jpg", "test/cat/1.jpg"),
            r"no training images: .*data has only test, val; add a split named train",
        ),
        (("test/cat/1.jpg", "test/dog/1.jpg"), "no training images: .*data has only test; add"),
        (
            ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "bird/1.heic"),
            r"class without an image that can be read: bird in .*data holds 1\.heic; convert its files to \.jpg",
        ),
        (("train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.heic"), "class without an image .*: test/cat in"),
    ],
)
def test_folders_that_would_be_misread(names: tuple[str, ...], message: str, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        _open(_files(tmp_path / "data", *names), cache)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("train/1.jpg", "train/2.jpg", "bus/1.jpg", "bus/2.jpg"), ("bus", "train")),
        (("test/1.jpg", "test/2.jpg", "control/1.jpg", "control/2.jpg"), ("control", "test")),
        (("train_2/cat/1.jpg", "train_2/cat/2.jpg", "train_2/dog/1.jpg", "train_2/dog/2.jpg"), ("cat", "dog")),
        (("cat/1.jpg", "cat/more/2.jpg", "dog/1.jfif", "dog/2.avif"), ("cat", "dog")),
    ],
    ids=["class-train", "class-test", "one-folder", "nested"],
)
def test_folders_that_are_classes(
    names: tuple[str, ...], classes: tuple[str, ...], cache: Path, tmp_path: Path
) -> None:
    data = _open(_files(tmp_path / "data", *names), cache)
    assert data.classes == classes
    assert data.counts() == {"train": 2, "test": 2}


def test_images_beside_the_only_folder_are_of_one_class(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class only: 'cat'"):
        _open(_files(tmp_path / "data", "cat/1.jpg", "cat/black/2.jpg", "cat/white/3.jpg"), cache)


def test_hidden_folders_are_left_out(cache: Path, tmp_path: Path) -> None:
    seen = ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/.2.jpg", "dog/3.jpg")
    root = _files(tmp_path / "data", *seen, "cat/.ipynb_checkpoints/x/1.jpg", "dog/__MACOSX/1.jpg", "bird/.DS_Store")
    assert {s.file for s in _open(root, cache).samples} == set(seen) - {"dog/.2.jpg"}


@pytest.mark.parametrize("name", [b"cat/caf\xe9.jpg", b"caf\xe9/1.jpg"])
def test_names_that_are_not_utf8_are_refused(name: bytes, cache: Path, tmp_path: Path) -> None:
    root = _files(tmp_path / "data", "cat/1.jpg", "dog/1.jpg")
    try:
        _files(root, os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match=r"file name that is not UTF-8: (cat/)?caf\\xe9(/1)?\.jpg; rename it"):
        _open(root, cache)


def test_measuring_needs_no_training_images(cache: Path, tmp_path: Path) -> None:
    root = _files(tmp_path / "data", "test/cat/1.jpg", "test/cat/2.jpg", "test/dog/1.jpg")
    data = _open(root, cache, for_training=False)
    assert data.classes == ("cat", "dog")
    assert data.counts() == {"test": 3}
    table = tmp_path / "list.csv"
    table.write_text("path,label,split\ndata/test/cat/1.jpg,cat,test\n")
    data = _open(table, cache, for_training=False)
    assert (data.classes, data.counts()) == (("cat",), {"test": 1})
    with pytest.raises(DataError, match="one class only"):
        _open(table, cache)


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
