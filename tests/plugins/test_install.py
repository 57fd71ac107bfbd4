"""Plugins are installed into the environment Zoo runs in, by the real pip, and nothing that was there is harmed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from zoo.errors import PluginError
from zoo.plugins.wheels import look_into, refuse_harm

Zoo = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = '''"""A small backbone of ours."""
from dataclasses import replace
import zoo_tiny as tiny
from zoo.hookspecs import hookimpl

@hookimpl
def zoo_backbones():
    return [replace(spec, weights=()) for spec in tiny.zoo_backbones()[:1]]
'''
NAMES = ("acme", "lies", "falls", "old_torch", "torch_breaker", "needy")


def _wheel(
    folder: Path, plugin: str, source: str, *, version: str = "1.0", requires: str = "", more: Mapping[str, str] = {}
) -> Path:
    """The wheel of a distribution `zoo-<plugin>` with one plugin, and files beside it."""
    name = f"zoo_{plugin}"
    info = f"{name}-{version}.dist-info"
    facts = "Summary: Ours\nLicense: MIT\n"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": source,
        **more,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{facts}{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[zoo]\n{plugin} = {name}\n",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


@pytest.mark.parametrize(
    ("plugin", "more", "message"),
    [
        ("acme", {"torch/__init__.py": ""}, r"zoo_acme 1\.0 would overwrite torch/__init__\.py of torch"),
        ("acme", {"zoo_acme-1.0.data/purelib/torch/__init__.py": ""}, r"would overwrite torch/__init__\.py of torch"),
        ("acme", {"acme.pth": "import os"}, r"zoo_acme 1\.0 brings acme\.pth, which every start of Python would run"),
        ("acme", {"sitecustomize.py": ""}, r"brings sitecustomize\.py, which every start of Python would run"),
        ("tiny", {}, r"plugin name 'tiny' of zoo_tiny is taken by zoo; remove that one first"),
    ],
)
def test_a_wheel_that_would_do_harm_is_refused(
    plugin: str, more: Mapping[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=message):
        refuse_harm([look_into(_wheel(tmp_path, plugin, PLUGIN, more=more))])


def test_what_a_wheel_says_of_itself(tmp_path: Path) -> None:
    found = look_into(_wheel(tmp_path, "acme", PLUGIN))
    refuse_harm([found])
    assert (found.name, found.version, found.license, found.summary) == ("zoo_acme", "1.0", "MIT", "Ours")
    assert (found.plugins, found.replaces) == (("acme",), None)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("install", "acme"), 2, "no plugin of that name in the directory: 'acme'; see `zoo plugins search`, or give"),
        (("install", "torchvison"), 2, "did you mean 'torchvision'?"),
        (("install", "torchvision"), 2, "torchvision comes with Zoo itself: nothing to install"),
        (("remove", "tiny"), 2, "tiny comes with Zoo itself; ZOO_PLUGINS without its name leaves it out"),
        (("remove", "acme"), 2, "unknown plugin: 'acme'"),
    ],
)
def test_what_is_no_plugin_to_install_or_remove(words: tuple[str, ...], code: int, message: str, zoo: Zoo) -> None:
    done = zoo("plugins", *words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_the_directory_is_searched(zoo: Zoo) -> None:
    rows = json.loads(zoo("plugins", "search", "LETTERS", "--json").stdout)
    assert [(row["name"], row["distribution"], row["installed"] is not None) for row in rows] == [("tiny", "zoo", True)]
    shown = json.loads(zoo("plugins", "show", "tiny", "--json").stdout)
    assert (shown["status"], shown["backbones"], shown["license"]) == (
        "ok",
        ["tiny/glyphnet", "tiny/denoise"],
        "Apache-2.0",
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels that pip takes for an index, and a registry that lists them."""
    folder = tmp_path_factory.mktemp("index")
    _wheel(folder, "acme", PLUGIN)
    _wheel(folder, "lies", PLUGIN.replace("weights=()", "weights=(), num_features=113"))
    _wheel(folder, "falls", "1 / 0")
    _wheel(folder, "old_torch", PLUGIN, requires="torch<1.0")
    _wheel(folder, "torch_breaker", PLUGIN, more={"torch.py": "raise RuntimeError('not the torch you know')"})
    _wheel(folder, "needy", PLUGIN, requires="no-such-distribution-anywhere")
    entries = [
        {"name": name, "distribution": f"zoo-{name.replace('_', '-')}", "summary": "", "backbones": 1, "heads": []}
        for name in NAMES
    ]
    (folder / "registry.json").write_text(json.dumps({"schema": 1, "plugins": entries, "backbones": []}))
    return folder


@pytest.fixture(scope="module")
def fresh(index: Path, make_environment: Callable[..., Zoo]) -> Zoo:
    """The command line in a virtual environment of its own, whose index is ours."""
    return make_environment(PIP_FIND_LINKS=str(index), ZOO_REGISTRY=str(index / "registry.json"))


def _plugins(fresh: Zoo) -> dict[str, str]:
    return {row["name"]: row["version"] for row in json.loads(fresh("plugins", "list", "--json").stdout)}


@pytest.mark.slow
def test_installed_checked_and_removed(fresh: Zoo) -> None:
    before = _plugins(fresh)
    unasked = fresh("plugins", "install", "acme")
    assert unasked.returncode != 0
    assert "zoo_acme 1.0, plugin acme: Ours (MIT)" in unasked.stderr
    assert "A plugin is code: it runs with your rights" in unasked.stderr
    assert _plugins(fresh) == before
    done = fresh("plugins", "install", "acme", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["installed"] == [{"name": "zoo_acme", "version": "1.0", "replaces": None, "license": "MIT"}]
    assert found["plugins"] == [
        {"plugin": "acme", "error": None, "backbones": ["acme/glyphnet"], "heads": [], "findings": []}
    ]
    assert _plugins(fresh) == {**before, "acme": "1.0"}
    assert "zoo-acme is installed already" in fresh("plugins", "install", "acme", "--yes").stderr
    removed = fresh("plugins", "remove", "acme", "--yes", "--json")
    assert json.loads(removed.stdout) == {"removed": "zoo_acme", "version": "1.0", "plugins": ["acme"]}
    assert _plugins(fresh) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("old_torch", "torch"),
        ("needy", "pip cannot install: Could not find a version that satisfies the requirement no-such-distribution"),
        ("torch_breaker", "zoo_torch_breaker: breaks torch: RuntimeError: not the torch you know instead of 2."),
    ],
)
def test_what_would_break_the_environment_leaves_it_as_it_was(name: str, message: str, fresh: Zoo) -> None:
    before = _plugins(fresh)
    done = fresh("plugins", "install", name, "--yes")
    assert done.returncode == 5, done.stdout + done.stderr
    assert message in done.stderr
    assert _plugins(fresh) == before


@pytest.mark.slow
def test_a_version_that_breaks_the_environment_gives_way_to_the_one_before(fresh: Zoo, tmp_path: Path) -> None:
    assert fresh("plugins", "install", _wheel(tmp_path, "grows", PLUGIN), "--any", "--yes").returncode == 0
    newer = _wheel(tmp_path, "grows", PLUGIN, version="2.0", more={"torch.py": "1 / 0"})
    done = fresh("plugins", "install", newer, "--any", "--yes")
    assert "breaks torch: ZeroDivisionError" in done.stderr
    assert "zoo_grows 2.0 instead of 1.0, plugin grows" in done.stderr
    assert _plugins(fresh)["grows"] == "1.0"
    assert fresh("show", "grows/glyphnet").returncode == 0
    assert fresh("plugins", "remove", "grows", "--yes").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lies", "lies: glyphnet: num_features: 113 declared, pool gives (3, 112)"),
        ("falls", "falls: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_does_not_keep_its_word_is_told(name: str, message: str, fresh: Zoo) -> None:
    done = fresh("plugins", "install", name, "--yes")
    assert done.returncode == 5, done.stderr
    assert message in done.stdout
    assert f"`zoo plugins remove {name}` takes it out again" in done.stdout
    assert fresh("plugins", "remove", name, "--yes").returncode == 0


@pytest.mark.slow
def test_a_dependency_at_an_address_of_its_own(fresh: Zoo, tmp_path: Path) -> None:
    helper = _wheel(tmp_path, "helper", PLUGIN)
    direct = _wheel(tmp_path, "direct", PLUGIN, requires=f"zoo_helper @ {helper.as_uri()}")
    done = fresh("plugins", "install", direct, "--any", "--yes", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {package["name"] for package in json.loads(done.stdout)["installed"]} == {"zoo_direct", "zoo_helper"}
    assert {"direct", "helper"} <= _plugins(fresh).keys()
    for name in ("direct", "helper"):
        assert fresh("plugins", "remove", name, "--yes").returncode == 0
