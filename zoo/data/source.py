"""DATA on the command line (folder, .zip, .csv, builtin:NAME) to a plain list of files with labels."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.artifacts.files import folder_once, sha256_file
from zoo.data.builtin import BUILTIN, materialise
from zoo.data.dataset import Split
from zoo.data.images import SUFFIXES
from zoo.errors import DataError, UsageError, did_you_mean

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_PATH_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "category", "target")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file as the source names it; `split` is None where the source does not say."""

    file: str
    label: str
    split: Split | None


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a source and the folder their names are relative to."""

    root: Path
    files: tuple[Listed, ...]


def list_source(data: str, cache: Path) -> Listing:
    """The labelled files of DATA. Archives and built-in sets are unpacked once under `cache`.

    Raises DataError where there is nothing usable, UsageError for an unknown built-in set.
    """
    if data.startswith("builtin:"):
        name = data.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UsageError(f"unknown built-in data set: {name!r}; {did_you_mean(name, BUILTIN) or BUILTIN}")
        return _list_folder(materialise(name, cache))
    path = Path(data)
    if path.is_dir():
        return _list_folder(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _list_csv(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _list_folder(_unpack(path, cache))
    what = "no such data set" if not path.exists() else "not a data set"
    raise DataError(f"{what}: {data}; give a folder, a .zip, a .csv of path and label, or builtin:digits")


def _list_folder(root: Path) -> Listing:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry))
    if len(folders) == 1 and not folders[0].name.lower().startswith("train"):
        inner = [entry for entry in folders[0].iterdir() if entry.is_dir() and not _hidden(entry)]
        if inner:  # an archive of one folder
            return _list_folder(folders[0])
    splits = {
        folder: _SPLIT_FOLDERS[folder.name.lower()] for folder in folders if folder.name.lower() in _SPLIT_FOLDERS
    }
    files: list[Listed] = []
    if "train" in splits.values():
        for folder, split in splits.items():
            for class_folder in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry)):
                files += (Listed(name, class_folder.name, split) for name in _images(class_folder, root))
    else:
        for class_folder in folders:
            files += (Listed(name, class_folder.name, None) for name in _images(class_folder, root))
    if not files:
        raise DataError(f"no images in {root}; expected train/<class>/*.jpg and test/<class>/*.jpg, or <class>/*.jpg")
    return Listing(root, tuple(files))


def _images(folder: Path, root: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path):
            yield path.relative_to(root).as_posix()


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


def _list_csv(path: Path) -> Listing:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
        path_column = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
        label_column = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
        if path_column is None or label_column is None:
            raise DataError(
                f"columns of {path}: {', '.join(columns) or 'none'}; name one of "
                f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)} (and `split`, if you like)"
            )
        files = []
        for row in reader:
            name, label = (row[path_column] or "").strip(), (row[label_column] or "").strip()
            split = (row.get(columns.get("split", ""), "") or "").strip().lower()
            where = f"{path} line {reader.line_num}"
            if not name or not label:
                raise DataError(f"empty path or label: {where}; fill it in or remove the line")
            if split and split not in _SPLIT_FOLDERS:
                raise DataError(f"unknown split: {split!r} in {where}; use train, val or test")
            if not (path.parent / name).is_file():
                raise DataError(f"no such file: {name} in {where}; paths are relative to the CSV file")
            files.append(Listed(Path(name).as_posix(), label, _SPLIT_FOLDERS[split] if split else None))
    if not files:
        raise DataError(f"no lines in {path}; give a line per image")
    return Listing(path.parent, tuple(files))


def _unpack(archive: Path, cache: Path) -> Path:
    def extract(folder: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise DataError(f"damaged archive: {archive} ({error}); fetch it again") from None

    return folder_once(cache / "data" / f"{archive.stem}-{sha256_file(archive)[:16]}", extract)
