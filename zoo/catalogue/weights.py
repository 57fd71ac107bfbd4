"""The files of pretrained weights: fetched once, verified whenever they are used, forgotten when nothing needs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from zoo.artifacts.files import sha256_file
from zoo.catalogue.catalogue import BackboneEntry
from zoo.catalogue.download import LOCK, PART, DownloadError, download, is_being_fetched
from zoo.errors import WeightsError
from zoo.progress import Progress
from zoo.specs import WeightsSpec

_FOLDER = "weights"
_SHORT = 8
"""So many digits of its digest tell a file apart from others of its name."""


def weights_path(spec: WeightsSpec, cache: Path) -> Path:
    """Where the file of a pretrained set is, or will be once it is fetched."""
    if spec.url.startswith("package:"):
        package, _, inner = spec.url.removeprefix("package:").partition("/")
        return Path(str(files(package) / inner))
    return cache / _FOLDER / spec.sha256[:_SHORT] / Path(unquote(urlparse(spec.url).path)).name


def fetch_weights(spec: WeightsSpec, cache: Path, *, mirror: str | None = None, progress: Progress) -> Path:
    """The file of a pretrained set, digest verified: from a package, from `cache/weights`, or downloaded there.

    `mirror` replaces everything before the file name of a URL. Raises WeightsError where the file cannot be had or its
    digest is wrong.
    """
    path = weights_path(spec, cache)
    if not path.is_file():
        if spec.url.startswith("package:"):
            raise WeightsError(f"weights {spec.tag!r} not found: {path}; reinstall the plugin")
        url = f"{mirror.rstrip('/')}/{path.name}" if mirror else spec.url
        try:
            download(url, path, sha256=spec.sha256, progress=progress)
        except DownloadError as error:
            raise WeightsError(
                f"cannot download weights {spec.tag!r}: {error}; try again, give another mirror (ZOO_WEIGHTS_MIRROR), "
                f"put the file at {path}, or give your own with --weights FILE"
            ) from None
    digest = sha256_file(path)
    if not digest.startswith(spec.sha256):
        raise WeightsError(
            f"weights {spec.tag!r} are damaged: {path} has sha256 {digest[:16]}..., expected {spec.sha256[:16]}; "
            "delete the file and fetch it again"
        )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """One file in the cache of weights."""

    path: Path
    bytes: int
    weights: str | None
    """`<plugin>/<backbone>@<tag>`; None where no installed backbone declares it."""
    state: Literal["ok", "damaged", "unfinished", "unknown", "unverified"]
    """`unknown`: of no installed backbone; `unverified`: its digest was not asked for."""


def cached_weights(cache: Path, entries: Iterable[BackboneEntry], *, verify: bool = False) -> Iterator[CachedFile]:
    """Every file in `cache/weights`, by name; with `verify` its digest is computed."""
    declared = {
        weights_path(weights, cache): (f"{entry.id}@{weights.tag}", weights.sha256)
        for entry in entries
        for weights in entry.spec.weights
    }
    for path in sorted((cache / _FOLDER).glob("*/*")):
        finished = path.with_suffix("") if path.suffix == PART else path
        if path.suffix == LOCK or (finished != path and is_being_fetched(finished)):
            continue
        name, sha256 = declared.get(finished, (None, ""))
        state: Literal["ok", "damaged", "unfinished", "unknown", "unverified"] = "unverified"
        if finished != path:
            state = "unfinished"
        elif name is None:
            state = "unknown"
        elif verify:
            state = "ok" if sha256_file(path).startswith(sha256) else "damaged"
        yield CachedFile(path=path, bytes=path.stat().st_size, weights=name, state=state)


def remove_cached(file: CachedFile) -> None:
    """Takes a file out of the cache."""
    file.path.unlink(missing_ok=True)
    folder = file.path.parent
    if all(path.suffix == LOCK for path in folder.iterdir()):
        shutil.rmtree(folder)
