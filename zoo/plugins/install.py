"""Plugins into this very environment and out of it, without harm to what is there.

pip resolves and fetches; the wheels are looked into before any of them is installed. Where torch or ONNX Runtime do not
work any more afterwards, everything is put back as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, distribution
from pathlib import Path

from zoo.errors import PluginError
from zoo.plugins.wheels import Package, installed_version, look_into, refuse_harm
from zoo.progress import Progress

GUARDED = ("torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "numpy", "zoo")
"""No plugin changes the version of these."""
_WORKS = """
import json
found = {}
for name in ("torch", "onnxruntime"):
    try:
        module = __import__(name)
        found[name] = module.__version__
        if name == "torch":
            found[name] += f" {float(module.ones(2).sum())}"
        else:
            found[name] += " ".join(module.get_available_providers())
    except ModuleNotFoundError as error:
        found[name] = "not installed" if error.name == name else f"ModuleNotFoundError: {error}"
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@contextmanager
def prepared(requirement: str, *, source_too: bool, progress: Progress) -> Iterator[list[Package]]:
    """What installing `requirement` would install, fetched into a folder that lives as long as the context.

    Only wheels unless `source_too`, so that none of its code has run. Raises PluginError where it cannot be had, needs
    another version of what is `GUARDED`, would overwrite files of others, run code at every start of Python, claim the
    name of an installed plugin, or brings no plugin at all.
    """
    with tempfile.TemporaryDirectory() as folder, progress.task(f"looking at {requirement}", 3) as task:
        limits = Path(folder) / "constraints.txt"
        present = {name: version for name in GUARDED if (version := installed_version(name)) is not None}
        limits.write_text("".join(f"{name}=={version}\n" for name, version in present.items()))
        kinds = () if source_too else ("--only-binary", ":all:")
        report = Path(folder) / "report.json"
        _pip("install", "--dry-run", "--report", report, "--constraint", limits, *kinds, requirement)
        task.advance(1)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
        wheels = Path(folder) / "wheels"
        wheels.mkdir()
        for item in found:
            exact = f"{item['metadata']['name']}=={item['metadata']['version']}"
            if item["is_direct"]:  # from a file, folder or address: what was asked for, or what that names itself
                exact = requirement if item["requested"] else item["download_info"]["url"]
            _pip("wheel", "--no-deps", "--wheel-dir", wheels, *kinds, exact)
        task.advance(1)
        packages = [look_into(wheel) for wheel in sorted(wheels.iterdir())]
        if not any(package.plugins for package in packages):
            there = "brings no plugin of Zoo" if packages else "is installed already"
            raise PluginError(f"{requirement} {there}; see `zoo plugins list`")
        refuse_harm(packages)
        task.advance(1)
        yield packages


def install(packages: Sequence[Package], progress: Progress) -> None:
    """Installs prepared packages. Raises PluginError, everything being as it was, where they break the environment."""
    with tempfile.TemporaryDirectory() as folder, progress.task("installing", 3) as task:
        before = _works()
        replaced = [package.name for package in packages if package.replaces is not None]
        kept = {name: _back_up(distribution(name), Path(folder) / name) for name in replaced}
        task.advance(1)
        try:
            _pip("install", "--no-deps", "--no-index", "--force-reinstall", *(package.wheel for package in packages))
            task.advance(1)
            after = _works()
        except BaseException:
            _put_back(packages, kept)
            raise
        task.advance(1)
        broken = [name for name, state in before.items() if after[name] != state]
        if broken:
            _put_back(packages, kept)
            raise PluginError(
                f"{', '.join(package.name for package in packages)}: breaks {broken[0]}: {after[broken[0]]} instead of "
                f"{before[broken[0]]}; taken out again, everything is as it was"
            )


def remove(distribution_name: str) -> None:
    """Takes a distribution out; what it needed stays. Raises PluginError where pip cannot."""
    _pip("uninstall", "--yes", distribution_name)


def _works() -> dict[str, str]:
    """What torch and ONNX Runtime say in a process of their own."""
    done = subprocess.run([sys.executable, "-c", _WORKS], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return dict.fromkeys(("torch", "onnxruntime"), f"Python ends: {reason}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _back_up(found: Distribution, folder: Path) -> dict[Path, Path]:
    """Copies of the files of a distribution: where each belongs, and where it is kept."""
    kept = {}
    for number, file in enumerate(found.files or ()):
        path = Path(str(found.locate_file(file)))
        if path.is_file():
            kept[path] = folder / str(number)
            folder.mkdir(exist_ok=True)
            shutil.copy2(path, kept[path])
    return kept


def _put_back(packages: Sequence[Package], kept: Mapping[str, Mapping[Path, Path]]) -> None:
    for package in packages:
        if installed_version(package.name) is not None:
            remove(package.name)
    for copies in kept.values():
        for path, copy in copies.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(copy, path)


def _pip(*words: object) -> None:
    """Runs the pip of this environment. Raises PluginError with its own words."""
    command = [sys.executable, "-m", "pip", *map(str, words)]
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_QUIET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = " ".join(lines) or done.stderr.strip()[-300:]
        raise PluginError(f"pip cannot {words[0]}: {reason}")
