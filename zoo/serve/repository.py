"""Which files are served: single ones, and folders of models and versions, looked at again while serving.

    models/flowers.onnx              version 1 of `flowers`
    models/birds/1/model.onnx        versions of `birds`, as other servers lay them out
    models/birds/2/model.onnx

A file is loaded, checked (digest, golden answers on this machine) and warmed up before it takes the place of another;
where it fails, what was served goes on being served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ModelError, ZooError
from zoo.serve.model import ServedOnnx
from zoo.serving.batching import Pace

Loaded = tuple[ServedOnnx, Pace]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A version of a model and its file."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class _State:
    """What shows that a file was replaced."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _State | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


def find_models(places: Iterable[Path]) -> list[Place]:
    """The models in files and folders. Raises ModelError for one that is missing or holds none, ZooError where two
    files are the same version of one model."""
    found: dict[tuple[str, int], Place] = {}
    for place in places:
        if not place.exists():
            raise ModelError(f"no such model: {place}; give an ONNX file, or a folder of them")
        inside = list(_in_folder(place)) if place.is_dir() else [Place(place.stem, 1, place)]
        if not inside:
            raise ModelError(f"no models in {place}; put NAME.onnx or NAME/1/model.onnx there")
        for each in inside:
            other = found.setdefault((each.name, each.version), each)
            if other.path != each.path:
                raise ZooError(f"two models named {each.name!r}: {other.path} and {each.path}; rename one of them")
    return sorted(found.values())


def _in_folder(folder: Path) -> Iterable[Place]:
    for entry in sorted(folder.iterdir()):
        if entry.suffix == ".onnx" and entry.is_file():
            yield Place(entry.stem, 1, entry)
        elif entry.is_dir():
            for version in entry.iterdir():
                model = version / "model.onnx"
                if version.name.isascii() and version.name.isdigit() and model.is_file():
                    yield Place(entry.name, int(version.name), model)


class Repository:
    """The files behind the models of a server."""

    def __init__(self, places: Sequence[Path], load: Callable[[Place], Loaded]) -> None:
        """`load` raises ZooError for a file that must not be served."""
        self._places = places
        self._load = load
        self._tried: dict[Place, _State | None] = {}
        """Files as they were when they were loaded, or refused."""
        self._seen: dict[Place, _State | None] = {}
        self._served: set[Place] = set()

    def load_all(self) -> list[Loaded]:
        """What is served at first: of each model every version that may be. Raises the error of a model that has
        none, and those of `find_models`."""
        loaded: dict[str, list[Loaded]] = {}
        refused: dict[str, ZooError] = {}
        for place in find_models(self._places):
            self._tried[place] = _State.of(place.path)
            versions = loaded.setdefault(place.name, [])
            try:
                versions.append(self._load(place))
                self._served.add(place)
            except ZooError as error:
                refused[place.name] = error
                _log.error("version %d of %s is not served: %s", place.version, place.name, error)
        for name, versions in loaded.items():
            if not versions:
                raise refused[name]
        return [each for versions in loaded.values() for each in versions]

    async def watch(self, seconds: float, put: Callable[[Loaded], None], remove: Callable[[Place], None]) -> None:
        """Looks for new, replaced and removed files every so many seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                found = await asyncio.to_thread(find_models, self._places)
            except (ZooError, OSError) as error:
                _log.warning("models are left as they are: %s", error)
                continue
            for place in found:
                await self._look(place, put)
            for place in self._served - set(found):
                self._served.discard(place)
                self._tried.pop(place, None)
                _log.warning("version %d of %s is gone", place.version, place.name)
                remove(place)

    async def _look(self, place: Place, put: Callable[[Loaded], None]) -> None:
        state, before = _State.of(place.path), self._seen.get(place)
        self._seen[place] = state
        if state is None or state == self._tried.get(place):
            return
        if state != before:
            return  # perhaps still being written: once it has been the same twice
        self._tried[place] = state
        try:
            loaded = await asyncio.to_thread(self._load, place)
        except Exception as error:  # whatever it is, what is served goes on being served
            kept = "the one before goes on" if place in self._served else "it is not served"
            _log.error("version %d of %s is refused, %s: %s", place.version, place.name, kept, error)
            return
        self._served.add(place)
        _log.warning("version %d of %s is loaded", place.version, place.name)
        put(loaded)
