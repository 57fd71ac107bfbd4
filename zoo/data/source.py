"""DATA on the command line (folder, .zip, .csv, builtin:NAME) to a plain list of files with labels."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.artifacts.files import folder_once
from zoo.data.builtin import BUILTIN, materialise
from zoo.data.dataset import Split
from zoo.data.images import SUFFIXES
from zoo.errors import DataError, UsageError, did_you_mean
from zoo.progress import Progress, Silent

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
_LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg, or <class>/*.jpg"
_MEGABYTE = 1_000_000


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


def list_source(data: str, cache: Path, progress: Progress | None = None) -> Listing:
    """The labelled files of DATA. Archives and built-in sets are unpacked once under `cache`.

    Raises DataError where there is nothing usable, where images would be left out, and where a folder that would be a
    class holds folders only; UsageError for an unknown built-in set.
    """
    listing = _list(data, cache, progress or Silent())
    for name in (str(listing.root.resolve()), *(file.file for file in listing.files)):
        _check_name(name)
    return listing


def _list(data: str, cache: Path, progress: Progress) -> Listing:
    if data.startswith("builtin:"):
        name = data.removeprefix("builtin:")
        if name not in BUILTIN:
            raise UsageError(f"unknown built-in data set: {name!r}; {did_you_mean(name, BUILTIN) or BUILTIN}")
        return _list_folder(materialise(name, cache), data)
    path = Path(data)
    if path.is_dir():
        return _list_folder(path, data)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _list_csv(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _list_folder(_unpack(path, cache, progress), data)
    what = "no such data set" if not path.exists() else "not a data set"
    raise DataError(f"{what}: {data}; give a folder, a .zip, a .csv of path and label, or builtin:digits")


def _check_name(name: str) -> None:
    """Raises DataError for a name that records, being UTF-8, cannot hold; Python has its bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise DataError(f"file name that is not UTF-8: {shown}; rename it") from None


def _list_folder(root: Path, data: str) -> Listing:
    folders = _folders(root)
    # A class may be called `train` or `test`: only folders with class folders inside are splits.
    splits = {
        folder: _SPLIT_FOLDERS[folder.name.lower()]
        for folder in folders
        if folder.name.lower() in _SPLIT_FOLDERS and _folders(folder)
    }
    if len(folders) == 1 and not splits and _folders(folders[0]) and not any(map(_is_image, folders[0].iterdir())):
        return _list_folder(folders[0], data)  # an archive of one folder
    classes: list[tuple[Path, Split | None]]
    if splits:
        beside = [folder.name for folder in folders if folder not in splits and any(_images(folder))]
        if beside:
            named = ", ".join(folder.name for folder in splits)
            raise DataError(
                f"images in no split: {', '.join(beside)} beside {named} in {data}; "
                "name such folders train, val or test, with a folder per class inside, or move them away"
            )
        classes = [(folder, split) for top, split in splits.items() for folder in _folders(top)]
    else:
        classes = [(folder, None) for folder in folders]
    files: list[Listed] = []
    for folder, split in classes:
        _check_class(folder, root, data)
        files += [Listed(path.relative_to(root).as_posix(), folder.name, split) for path in _images(folder)]
    if not files:
        raise DataError(f"no images in {data}; expected {_LAYOUT}")
    return Listing(root, tuple(files))


def _check_class(folder: Path, root: Path, data: str) -> None:
    """Raises DataError where a folder is no class but holds classes, or where its class would vanish."""
    entries = sorted(entry for entry in folder.iterdir() if not _hidden(entry))
    if any(map(_is_image, entries)):
        return
    name = folder.relative_to(root).as_posix()
    inner = next((entry.name for entry in entries if entry.is_dir()), None)
    if inner is not None:
        raise DataError(f"not a class: {name} in {data} holds no images but folders ({inner}); expected {_LAYOUT}")
    if entries:
        raise DataError(
            f"class without an image that can be read: {name} in {data} holds {entries[0].name}; convert its files to "
            ".jpg or .png, or move it away"
        )


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry))


def _images(folder: Path) -> Iterator[Path]:
    """The images in a folder and in folders inside it."""
    for path in sorted(folder.rglob("*")):
        if _is_image(path) and not any(map(_hidden, path.relative_to(folder).parents)):
            yield path


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path)


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


def _list_csv(path: Path) -> Listing:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            files = _rows(path, csv.DictReader(file))
    except UnicodeDecodeError:
        raise DataError(f"not UTF-8 text: {path}; save it as `CSV UTF-8`") from None
    except csv.Error as error:
        raise DataError(f"damaged CSV file: {path} ({error}); look for a quote that is not closed") from None
    if not files:
        raise DataError(f"no lines in {path}; give a line per image")
    return Listing(path.parent, tuple(files))


def _rows(path: Path, reader: csv.DictReader[str]) -> list[Listed]:
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    path_column = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    label_column = next((columns[name] for name in _LABEL_COLUMNS if name in columns), None)
    split_column = columns.get("split")
    if path_column is None or label_column is None:
        raise DataError(
            f"columns of {path}: {', '.join(columns) or 'none'}; name one of "
            f"{', '.join(_PATH_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)} (and `split`, if you like)"
        )
    files: list[Listed] = []
    lines: dict[str, int] = {}
    folder = path.parent.absolute()
    for row in reader:
        name, label = (row[path_column] or "").strip(), (row[label_column] or "").strip()
        split = (row[split_column] or "").strip().lower() if split_column is not None else ""
        where = f"{path} line {reader.line_num}"
        if not name or not label:
            raise DataError(f"empty path or label: {where}; fill it in or remove the line")
        if split and split not in _SPLIT_FOLDERS:
            raise DataError(f"unknown split: {split!r} in {where}; use train, val or test")
        if not (folder / name).is_file():
            raise DataError(f"no such file: {name} in {where}; paths are relative to the CSV file")
        first = lines.setdefault(os.path.normpath(folder / name), reader.line_num)
        if first != reader.line_num:
            raise DataError(f"file named twice: {name} in {where}, as in line {first}; keep one of them")
        files.append(Listed(Path(name).as_posix(), label, _SPLIT_FOLDERS[split] if split else None))
    return files


def _unpack(archive: Path, cache: Path, progress: Progress) -> Path:
    def extract(folder: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                with progress.task("unpacking archive", len(members)) as task:
                    for member in members:
                        file.extract(member, folder)
                        task.advance()
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise DataError(f"damaged archive: {archive} ({error}); fetch it again") from None
        # Encryption; and, as NotImplementedError, which is one too, a method of compression that Python has not.
        except RuntimeError as error:
            raise DataError(f"cannot unpack: {archive} ({error}); unpack it yourself and give the folder") from None

    return folder_once(cache / "data" / f"{archive.stem}-{_digest(archive, progress)[:16]}", extract)


def _digest(archive: Path, progress: Progress) -> str:
    """The hexadecimal sha256 of a file that may be large."""
    digest = hashlib.sha256()
    with archive.open("rb") as file, progress.task("reading archive (MB)", archive.stat().st_size / _MEGABYTE) as task:
        while chunk := file.read(_MEGABYTE):
            digest.update(chunk)
            task.advance(len(chunk) / _MEGABYTE)
    return digest.hexdigest()
