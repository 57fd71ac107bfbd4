"""Where the machine that serves gets Zoo from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from zoo import __version__
from zoo.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooPackage:
    """What pip is told to install: a requirement, or a wheel that is brought along."""

    requirement: str
    wheel: Path | None = None

    @classmethod
    def of(cls, given: str | None) -> ZooPackage:
        """The wheel or requirement that was given, else this version of Zoo where a package index has it.

        Raises UsageError for what is neither, and where this Zoo came from a folder: what an index has under its name
        and version may be anything.
        """
        if given is None:
            return cls(requirement=_as_installed())
        if given.endswith(".whl"):
            return cls(requirement=given, wheel=_wheel(Path(given)))
        try:
            return cls(requirement=str(Requirement(given)))
        except InvalidRequirement:
            raise UsageError(f"not what pip can install: --zoo {given!r}; a wheel file or such as zoo==1.0") from None


def _as_installed() -> str:
    try:
        direct = distribution("zoo").read_text("direct_url.json")
    except PackageNotFoundError:
        origin = "its source"
    else:
        if direct is None:
            return f"zoo=={__version__}"
        origin = json.loads(direct)["url"]
    raise UsageError(
        f"this Zoo came from no package index: {origin}; build a wheel of it "
        "(`pip wheel --no-deps -w dist SOURCE`) and give --zoo dist/WHEEL"
    )


def _wheel(path: Path) -> Path:
    try:
        parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise UsageError(f"not the name of a wheel: {path}; give the file as it was built") from None
    if not path.is_file():
        raise UsageError(f"no such wheel: {path}; build it with `pip wheel --no-deps -w dist SOURCE`")
    return path
