"""The files of pretrained weights: fetched once, verified whenever they are used, forgotten when nothing needs them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from zoo.artifacts.files import sha256_file, write_bytes
from zoo.catalogue.catalogue import BackboneEntry
from zoo.catalogue.download import LOCK, PART, DownloadError, download, is_being_fetched
from zoo.errors import WeightsError
from zoo.progress import Progress
from zoo.specs import WeightsSpec

_FOLDER = "weights"
_SHORT = 8
"""So many digits of its digest, or its name's, tell a file apart from others."""
_DIGEST = ".sha256"
"""Beside a file whose publisher gives no digest: that of the file as it was first had."""


def weights_path(spec: WeightsSpec, cache: Path) -> Path:
    """Where the file of a pretrained set is, or will be once it is fetched."""
    if spec.url.startswith("package:"):
        package, _, inner = spec.url.removeprefix("package:").partition("/")
        return Path(str(files(package) / inner))
    name = spec.file_name or Path(unquote(urlparse(spec.url).path)).name
    digest = spec.sha256 or hashlib.sha256((spec.file_name or spec.url).encode()).hexdigest()
    return cache / _FOLDER / digest[:_SHORT] / name


def _is_at_hand(spec: WeightsSpec, cache: Path) -> bool:
    """Whether the file of a pretrained set can be had without a network."""
    address = urlparse(spec.url)
    return weights_path(spec, cache).is_file() or (address.scheme == "file" and Path(unquote(address.path)).is_file())


def weights_at_hand(entries: Iterable[BackboneEntry], cache: Path) -> Iterator[tuple[BackboneEntry, WeightsSpec]]:
    """Every pretrained set of backbones that can be had without a network."""
    for entry in entries:
        for weights in entry.spec.weights:
            if _is_at_hand(weights, cache):
                yield entry, weights


def fetch_weights(spec: WeightsSpec, cache: Path, *, mirror: str | None = None, progress: Progress) -> Path:
    """The file of a pretrained set, digest verified: from a package, from `cache/weights`, or downloaded there.

    `mirror` replaces everything before the file name of a URL. Where the publisher gives no digest, that of the file as
    it was first had is kept beside it, and holds from then on. Raises WeightsError where the file cannot be had or its
    digest is wrong.
    """
    path = weights_path(spec, cache)
    if not path.is_file():
        if spec.url.startswith("package:"):
            raise WeightsError(f"weights {spec.tag!r} not found: {path}; reinstall the plugin")
        url = f"{mirror.rstrip('/')}/{path.name}" if mirror else spec.url
        try:
            download(url, path, sha256=spec.sha256 or "", progress=progress)
        except DownloadError as error:
            raise WeightsError(
                f"cannot download weights {spec.tag!r}: {error}; try again, give another mirror (ZOO_WEIGHTS_MIRROR), "
                f"put the file at {path}, or give your own with --weights FILE"
            ) from None
    digest, expected = sha256_file(path), spec.sha256 or _kept_digest(path)
    if expected is None:
        write_bytes(_beside(path), digest.encode())
        progress.say(f"weights {spec.tag!r} have no published digest; from now on they are those of sha256 {digest}")
    elif not digest.startswith(expected):
        raise WeightsError(
            f"weights {spec.tag!r} are damaged: {path} has sha256 {digest[:16]}..., expected {expected[:16]}; "
            "delete the file and fetch it again"
        )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """One file in the cache of weights."""

    path: Path
    bytes: int
    weights: str | None
    """`<plugin>/<backbone>@<tag>`; None where no installed backbone that is listed declares it."""
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
        if path.suffix in (LOCK, _DIGEST) or (finished != path and is_being_fetched(finished)):
            continue
        name, sha256 = declared.get(finished, (None, None))
        state: Literal["ok", "damaged", "unfinished", "unknown", "unverified"] = "unverified"
        if finished != path:
            state = "unfinished"
        elif name is None and _kept_digest(path) is None:  # with one it may be of a family too large to list
            state = "unknown"
        elif verify:
            expected = sha256 or _kept_digest(path) or ""
            state = "ok" if sha256_file(path).startswith(expected) else "damaged"
        yield CachedFile(path=path, bytes=path.stat().st_size, weights=name, state=state)


def remove_cached(file: CachedFile) -> None:
    """Takes a file out of the cache."""
    file.path.unlink(missing_ok=True)
    _beside(file.path).unlink(missing_ok=True)
    folder = file.path.parent
    if all(path.suffix == LOCK for path in folder.iterdir()):
        shutil.rmtree(folder)


def _kept_digest(path: Path) -> str | None:
    kept = _beside(path)
    return kept.read_text(encoding="ascii") if kept.is_file() else None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _DIGEST)
