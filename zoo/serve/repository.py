"""Which files are served: single ones, and folders of models and versions, looked at again while serving.

    models/flowers.onnx              version 1 of `flowers`
    models/birds/1/model.onnx        versions of `birds`, as other servers lay them out
    models/birds/2/model.onnx

A file is loaded, checked (digest, golden answers on this machine) and warmed up before it takes the place of another;
where it fails, what was served goes on being served. A model that is unloaded stays out until it is loaded again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ModelError, ZooError
from zoo.serve.model import ServedOnnx
from zoo.serving.repository import IndexEntry

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

    def __init__(
        self,
        places: Sequence[Path],
        *,
        load: Callable[[Place], ServedOnnx],
        put: Callable[[ServedOnnx], None],
        remove: Callable[[Place], Awaitable[None]],
        is_required: Callable[[str], bool],
        unloaded: Iterable[str] = (),
    ) -> None:
        """`load` raises ZooError for a file that must not be served; `put` and `remove` change what is served. What
        `remove` gives is done once the model has answered what it was asked. `unloaded`: models to leave out."""
        self._places = places
        self._load = load
        self._put = put
        self._remove = remove
        self._is_required = is_required
        self._tried: dict[Place, _State | None] = {}
        """Files as they were when they were loaded, or refused."""
        self._seen: dict[Place, _State | None] = {}
        self._served: set[Place] = set()
        self._refused: dict[Place, str] = {}
        """Why files are not served as they are now."""
        self.unloaded = set(unloaded)
        """Names of models that are out because somebody asked for it."""
        self.required: set[str] = set()
        """Names of models that were there at first and are required."""
        self._changing = asyncio.Lock()

    def load_all(self) -> list[ServedOnnx]:
        """What is served at first: of each model every version that may be. Raises the error of a required model that
        has none, and those of `find_models`."""
        loaded: dict[str, list[ServedOnnx]] = {}
        refused: dict[str, ZooError] = {}
        for place in find_models(self._places):
            if self._is_required(place.name):
                self.required.add(place.name)
            if place.name in self.unloaded:
                continue
            self._tried[place] = _State.of(place.path)
            versions = loaded.setdefault(place.name, [])
            try:
                versions.append(self._load(place))
                self._served.add(place)
            except ZooError as error:
                refused[place.name] = error
                self._refused[place] = str(error)
                _log.error("version %d of %s is not served: %s", place.version, place.name, error)
        for name, versions in loaded.items():
            if not versions and name in self.required:
                raise refused[name]
        return [each for versions in loaded.values() for each in versions]

    @property
    def refused(self) -> list[str]:
        """Versions whose files are not served as they are now, such as `flowers:2`."""
        return [f"{place.name}:{place.version}" for place in sorted(self._refused)]

    async def index(self) -> list[IndexEntry]:
        """All versions in files and folders, and those that are served although their files are gone."""
        try:
            found = await asyncio.to_thread(find_models, self._places)
        except (ZooError, OSError):
            found = []
        return [
            IndexEntry(
                name=place.name,
                version=str(place.version),
                ready=place in self._served,
                reason="unloaded" if place.name in self.unloaded else self._why_not(place),
            )
            for place in sorted(self._served.union(found))
        ]

    async def load(self, name: str) -> None:
        """Reads all versions of a model anew, and takes out those whose files are gone.

        Raises ModelError where there are no files, or where one is refused: what was served of it goes on.
        """
        async with self._changing:
            try:
                everything = await asyncio.to_thread(find_models, self._places)
            except OSError as error:
                raise ModelError(f"models cannot be looked for: {error}; make their folders readable") from None
            found = [place for place in everything if place.name == name]
            if not found:
                raise ModelError(
                    f"failed to load {name!r:.80}: no such model; put its file into a folder that is served"
                )
            for place in found:
                self._tried[place] = _State.of(place.path)
                await self._replace(place)
            self._take_out(place for place in self._served.difference(found) if place.name == name)
            if any(place in self._served for place in found):
                self.unloaded.discard(name)
            refused = [f"version {place.version}: {self._refused[place]}" for place in found if place in self._refused]
            if refused:
                raise ModelError(f"failed to load {name!r:.80}: {'; '.join(refused)}")

    async def unload(self, name: str) -> None:
        """Takes all versions of a model out, once they have answered what they were asked, and leaves them out.

        Raises ModelError where there is no such model.
        """
        async with self._changing:
            if name not in {*self.unloaded, *(place.name for place in self._tried)}:
                raise ModelError(f"failed to unload {name!r:.80}: no such model; ask for the index of the repository")
            self.unloaded.add(name)
            drained = self._take_out(place for place in self._served if place.name == name)
            await asyncio.gather(*drained)
            _log.warning("%s is unloaded", name)

    async def watch(self, seconds: float) -> None:
        """Looks for new, replaced and removed files every so many seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            async with self._changing:
                await self._look_around()

    async def _look_around(self) -> None:
        try:
            found = await asyncio.to_thread(find_models, self._places)
        except (ZooError, OSError) as error:
            _log.warning("models are left as they are: %s", error)
            return
        for place in found:
            if place.name not in self.unloaded:
                await self._look_at(place)
        for place in self._refused.keys() - set(found) - self._served:
            del self._refused[place], self._tried[place]
        gone = self._served.difference(found)
        for place in gone:
            _log.warning("version %d of %s is gone", place.version, place.name)
        self._take_out(gone)

    async def _look_at(self, place: Place) -> None:
        state, before = _State.of(place.path), self._seen.get(place)
        self._seen[place] = state
        if state is None or state == self._tried.get(place):
            return
        if state != before:
            return  # perhaps still being written: once it has been the same twice
        self._tried[place] = state
        await self._replace(place)

    async def _replace(self, place: Place) -> None:
        """Puts the file as it is now in the place of what is served of it, where it may be served."""
        try:
            loaded = await asyncio.to_thread(self._load, place)
        except Exception as error:  # whatever it is, what is served goes on being served
            self._refused[place] = str(error)
            kept = "the one before goes on" if place in self._served else "it is not served"
            _log.error("version %d of %s is refused, %s: %s", place.version, place.name, kept, error)
            return
        self._refused.pop(place, None)
        self._served.add(place)
        _log.warning("version %d of %s is loaded", place.version, place.name)
        self._put(loaded)

    def _take_out(self, places: Iterable[Place]) -> list[Awaitable[None]]:
        drained = []
        for place in list(places):
            self._served.discard(place)
            self._tried.pop(place, None)
            self._refused.pop(place, None)
            drained.append(self._remove(place))
        return drained

    def _why_not(self, place: Place) -> str:
        """Why the file is not what answers."""
        return self._refused.get(place, "" if place in self._served else "not loaded yet")
