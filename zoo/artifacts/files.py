"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".partial-"
"""How the name of a folder begins that is not finished."""
_ABANDONED_SECONDS = 7 * 24 * 3600
"""A folder unfinished for so long belongs to a process that is no more."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""The numbers of an OSError where a folder takes nothing more: it is full, or not ours to write into."""


def sha256_file(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The hexadecimal sha256 of a JSON value, the same however its keys are ordered."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place in one step.

    A crash, a full disk or a Ctrl-C in the middle leaves the old file as it was.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as any file its owner makes.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` atomically."""
    write_atomically(path, lambda temporary: _fill(temporary, content))


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` atomically as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def folder_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `target`, filled by `fill` the first time.

    It is filled under another name and renamed when complete: a crash leaves nothing that looks finished, and of two
    processes at once the slower one takes what the faster one made.
    """
    if target.is_dir():
        return target
    try:
        with _filled(target, fill) as complete:
            complete.rename(target)
    except OSError as error:
        if not target.is_dir():
            error.filename = error.filename or str(target.parent)  # which disk is full is worth knowing
            raise
    return target


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Makes `target` the folder that `fill` fills, in place of what is there. Where that fails, what is there stays."""
    with _filled(target, fill) as complete, tempfile.TemporaryDirectory(dir=target.parent, prefix=UNFINISHED) as aside:
        old = Path(aside) / "old"
        if target.exists():  # no system renames a folder over another that is not empty
            target.rename(old)
        try:
            complete.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise


@contextmanager
def _filled(target: Path, fill: Callable[[Path], None]) -> Iterator[Path]:
    """A complete folder beside `target`, to be renamed; it is removed if it was not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=UNFINISHED))
    try:
        fill(temporary)
        # mkdtemp makes private folders; a cache may be shared.
        temporary.chmod(0o777 & ~_umask())
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    """Removes what killed processes have left half made."""
    for unfinished in root.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - unfinished.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(unfinished, ignore_errors=True)
