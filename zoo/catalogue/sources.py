"""Registries of others beside the packaged one: files and addresses a company or user points Zoo at."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from zoo.artifacts.files import write_bytes
from zoo.catalogue.download import DownloadError, read_url
from zoo.catalogue.registry import read_registry
from zoo.errors import ZooError
from zoo.progress import Progress

_FRESH_SECONDS = 24 * 3600


def open_registry(source: str, cache: Path, progress: Progress) -> dict[str, Any]:
    """The registry at a path or URL, validated.

    What an address gives is kept for a day, and longer where the network is away (with a remark). Raises ZooError where
    there is none, or where it does not fit the schema.
    """
    if "://" not in source:
        return read_registry(Path(source))
    copy = cache / "registries" / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    if not copy.is_file() or time.time() - copy.stat().st_mtime > _FRESH_SECONDS:
        try:
            content = read_url(source)
        except DownloadError as error:
            if not copy.is_file():
                raise ZooError(f"cannot read the registry: {error}; give another address or a file") from None
            progress.say(f"registry as it was when it was last read: {error}")
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, content)
    return read_registry(copy, source)
