"""Folders that `zoo deploy` writes: complete or not there, and replaced only while they are as it left them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.artifacts.files import read_json, replace_folder, sha256_file, write_json
from zoo.errors import UsageError

_SCHEMA = 1
_RECORD = ".zoo-deploy.json"
"""What Zoo wrote into the folder, with digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was written, and what to do with it."""

    folder: Path
    files: tuple[Path, ...]
    next: str
    """What comes next: a command, or where to find several."""

    def to_json(self) -> dict[str, Any]:
        """As scripts read it."""
        return {"folder": str(self.folder), "files": [str(file) for file in self.files], "next": self.next}


def write_folder(folder: Path, fill: Callable[[Path], None]) -> tuple[Path, ...]:
    """Makes `folder` what `fill` makes of an empty one, in one step, and gives its files.

    Raises UsageError where something is there that Zoo did not write or that was changed since.
    """
    _check_ours(folder)
    replace_folder(folder, lambda new: _fill_and_record(new, fill))
    return tuple(file for file in _files(folder) if file.name != _RECORD)


def _fill_and_record(folder: Path, fill: Callable[[Path], None]) -> None:
    fill(folder)
    digests = {file.relative_to(folder).as_posix(): sha256_file(file) for file in _files(folder)}
    write_json(folder / _RECORD, {"schema": _SCHEMA, "zoo": __version__, "files": digests})


def _check_ours(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / _RECORD).is_file():
        raise UsageError(f"already there and not written by `zoo deploy`: {folder}; give another -o")
    digests = read_json(folder / _RECORD)["files"]
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if name != _RECORD and (file.is_symlink() or sha256_file(file) != digests.get(name)):
            raise UsageError(f"not as `zoo deploy` wrote it: {file}; give another -o, or move this file away first")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
