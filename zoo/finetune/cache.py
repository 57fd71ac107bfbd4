"""Arrays that are computed once and kept on disk: what frozen parts give."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.files import NO_ROOM, folder_once, sha256_json, write_json
from zoo.progress import Progress

Array = NDArray[np.floating[Any]]

LIMIT_BYTES = 20 * 1024**3
_KEY = "key.json"
_ARRAY = "array.npy"


class FeatureCache:
    """Arrays under `root`, one folder per key; the least recently used go when they exceed `limit` bytes.

    Safe for several processes: a folder appears complete or not at all.
    """

    def __init__(self, root: Path, *, progress: Progress, limit: int = LIMIT_BYTES) -> None:
        self._root = root
        self._progress = progress
        self._limit = limit

    def get(
        self,
        key: dict[str, Any],
        shape: tuple[int, ...],
        dtype: type[np.floating[Any]],
        fill: Callable[[Array], None],
        check: Callable[[Array], bool],
    ) -> Array:
        """The array of `key`, read-only: from disk where `check` accepts what is there, else made by `fill`.

        A damaged array is made again, with a remark. So is one for which the disk has no room, in memory.
        """
        folder = self._root / sha256_json(key)
        if folder.is_dir():
            found = _read(folder, shape, dtype)
            if found is not None and check(found):
                with suppress(OSError):  # read-only, or removed meanwhile by another process in need of room
                    os.utime(folder / _KEY)
                return found
            self._progress.say(f"features on disk are damaged, computing them again: {folder}")
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder_once(folder, lambda temporary: _write(temporary, key, shape, dtype, fill))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._progress.say(f"features are not kept on disk: {self._root} ({error.strerror})")
        else:
            self._evict(folder)
            made = _read(folder, shape, dtype)
            if made is not None:  # another process in need of room may have removed it already
                return made
        array = np.empty(shape, dtype)
        fill(array)
        return array

    def _evict(self, current: Path) -> None:
        """Removes what was used longest ago until the rest fits; only folders this class made."""
        used = []
        for key in self._root.glob(f"*/{_KEY}"):
            try:
                used.append((key.stat().st_mtime, (key.parent / _ARRAY).stat().st_size, key.parent))
            except FileNotFoundError:  # another process was faster
                continue
        total = sum(size for _, size, _ in used)
        for _, size, folder in sorted(used):
            if total <= self._limit:
                break
            if folder != current:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size


def _write(
    folder: Path,
    key: dict[str, Any],
    shape: tuple[int, ...],
    dtype: type[np.floating[Any]],
    fill: Callable[[Array], None],
) -> None:
    path = folder / _ARRAY
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A full disk is an error now; met later, while writing through the map, it would be a signal that kills.
    with path.open("rb+") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    fill(array)
    array.flush()
    del array
    write_json(folder / _KEY, key)


def _read(folder: Path, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> Array | None:
    """The array in `folder`; None where it is not whole."""
    try:
        array = np.load(folder / _ARRAY, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None
