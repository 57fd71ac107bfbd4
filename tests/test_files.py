"""Folders appear whole or not at all, for everybody who may read beside them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from zoo.artifacts.files import folder_once


def _one(folder: Path) -> None:
    (folder / "one").write_text("1")


def test_a_folder_is_as_readable_as_one_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "by hand").mkdir()
    made = folder_once(tmp_path / "made", _one)
    assert made.stat().st_mode == (tmp_path / "by hand").stat().st_mode
    assert [path.name for path in made.iterdir()] == ["one"]


def test_a_full_disk_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        _one(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*cache'"):
        folder_once(tmp_path / "cache" / "made", full)
    assert not list((tmp_path / "cache").iterdir())
