"""What a wheel would bring into this environment, known before it is installed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution, distributions, entry_points
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from zoo.errors import PluginError
from zoo.plugins.loader import GROUP

_DATA = re.compile(r"[^/]+\.data/(?P<kind>[^/]+)/(?P<file>.+)")
_AT_START = ("sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One distribution that would be installed."""

    name: str
    version: str
    license: str
    summary: str
    replaces: str | None
    """The version that is there now."""
    wheel: Path
    plugins: tuple[str, ...]
    """The plugins of Zoo it brings."""


def installed_version(name: str) -> str | None:
    """The version of a distribution in this environment, None where it is not there."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def look_into(wheel: Path) -> Package:
    """What the metadata of a wheel say."""
    with ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        facts = message_from_bytes(archive.read(f"{folder}/METADATA"))
        points = ConfigParser(delimiters=("=",))
        if f"{folder}/entry_points.txt" in archive.namelist():
            points.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    return Package(
        name=facts["Name"],
        version=facts["Version"],
        license=facts.get("License-Expression") or facts.get("License") or "not declared",
        summary=facts.get("Summary", ""),
        replaces=installed_version(facts["Name"]),
        wheel=wheel,
        plugins=tuple(points[GROUP]) if points.has_section(GROUP) else (),
    )


def refuse_harm(packages: Sequence[Package]) -> None:
    """Raises PluginError where wheels would overwrite files of other distributions, run code at every start of Python,
    or claim the name of an installed plugin.
    """
    ours = {_plain(package.name) for package in packages}
    owners = {
        file: name
        for name, record in ((found.name, found.read_text("RECORD") or "") for found in distributions())
        if _plain(name) not in ours
        for file, *_ in csv.reader(record.splitlines())
    }
    claimed = {point.name: point.dist.name for point in entry_points(group=GROUP) if point.dist is not None}
    for package in packages:
        for name in package.plugins:
            if _plain(claimed.get(name, package.name)) != _plain(package.name):
                raise PluginError(
                    f"plugin name {name!r} of {package.name} is taken by {claimed[name]}; remove that one first"
                )
        for file in _files_of(package.wheel):
            if file in owners:
                raise PluginError(
                    f"{package.name} {package.version} would overwrite {file} of {owners[file]}; it is not installed"
                )
            if len(PurePosixPath(file).parts) == 1 and (file.endswith(".pth") or file in _AT_START):
                raise PluginError(
                    f"{package.name} {package.version} brings {file}, which every start of Python would run; it is not "
                    "installed"
                )


def _files_of(wheel: Path) -> Iterator[str]:
    """What a wheel puts into the folder of packages."""
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            found = _DATA.match(name)
            if not name.endswith("/") and (found is None or found["kind"] in ("purelib", "platlib")):
                yield found["file"] if found else name


def _plain(name: str) -> str:
    """A distribution's name in the one spelling that all others mean (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
