"""A broken plugin gives one line and takes nothing down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo import __version__
from zoo.plugins import Plugin, load_plugins

HONEST = """
from zoo.hookspecs import hookimpl
from zoo.specs import HeadSpec

@hookimpl
def zoo_heads():
    return [HeadSpec(name="h", task="classification", needs="embedding", build=lambda *a: None, loss=lambda *a: None)]
"""

LIAR = """
from dataclasses import replace
import zoo_tiny
from zoo.hookspecs import hookimpl

@hookimpl
def zoo_backbones():
    return [replace(spec, num_features=113, weights=()) for spec in zoo_tiny.zoo_backbones()[:1]]
"""

BROKEN = {
    "import_error": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "misspelt": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_backbone(): return []",
        "LookupError: unknown hook 'zoo_backbone'; did you mean 'zoo_backbones'?",
    ),
    "wrong_type": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_heads(): return ['linear']",
        "TypeError: zoo_heads gave str: 'linear'; must be HeadSpec",
    ),
    "not_a_list": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_heads(): return 7",
        "TypeError: zoo_heads gave int: 7; return a list of HeadSpec",
    ),
    "bad_spec": (HONEST.replace('name="h"', 'name="Bad Name"'), "ValueError: head name: 'Bad Name'; use lower case"),
    "raises": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_heads(): raise RuntimeError('no\\nluck')",
        "RuntimeError: no luck",
    ),
    "no_hook": ("x = 1", "LookupError: no hook in zoo_no_hook"),
    "no_torch": ("import torch_is_missing_here as torch", "ModuleNotFoundError: No module named 'torch_is_missing"),
    "arguments": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_heads(extra): return []",
        "PluginValidationError",
    ),
}


def _by_name(plugins: list[Plugin]) -> dict[str, Plugin]:
    return {plugin.name: plugin for plugin in plugins}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_is_one_line_and_the_rest_works(name: str, make_plugin: Callable[..., Path]) -> None:
    source, message = BROKEN[name]
    make_plugin(name, source)
    make_plugin("honest", HONEST)
    plugins = _by_name(load_plugins())
    assert plugins[name].status == "broken"
    assert message in str(plugins[name].error)
    assert "\n" not in str(plugins[name].error)
    assert plugins["honest"].status == "ok"
    assert plugins["tiny"].status == "ok"


def test_bad_plugin_name(make_plugin: Callable[..., Path]) -> None:
    make_plugin("Bad-Name!", HONEST, distribution="zoo_badname")
    assert "plugin name: 'Bad-Name!'" in str(_by_name(load_plugins())["Bad-Name!"].error)


def test_two_distributions_of_one_name_are_refused(make_plugin: Callable[..., Path]) -> None:
    make_plugin("clash", HONEST, distribution="zoo_clash1")
    make_plugin("clash", HONEST, distribution="zoo_clash2")
    plugin = _by_name(load_plugins())["clash"]
    assert plugin.status == "broken"
    assert plugin.error == ("plugin name 'clash' is claimed by zoo_clash1 1.0, zoo_clash2 1.0; uninstall all but one")


def test_two_versions_in_one_place_are_refused(make_plugin: Callable[..., Path]) -> None:
    make_plugin("half", HONEST)
    make_plugin("half", HONEST, version="2.0")
    plugin = _by_name(load_plugins())["half"]
    assert plugin.status == "broken"
    assert plugin.error is not None
    assert plugin.error.startswith(
        "two versions of zoo_half are installed in one place: 1.0, 2.0; `pip uninstall zoo_h"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HONEST.replace("HeadSpec\n", "HeadSpec, VideoInput\n"), "ImportError: cannot import name 'VideoInput'"),
        (HONEST.replace('name="h"', 'name="h", sound=1'), "TypeError: HeadSpec.__init__() got an unexpected keyword"),
    ],
    ids=["name", "argument"],
)
def test_a_plugin_for_a_newer_zoo_says_so(source: str, message: str, make_plugin: Callable[..., Path]) -> None:
    make_plugin("modern", source, requires="zoo>=99.1 ; python_version > '3'")
    make_plugin("wrong", source, requires="zoo>=0.0.1")
    plugins = _by_name(load_plugins())
    assert str(plugins["modern"].error).startswith(message)
    assert f"(it is for zoo>=99.1, and this is {__version__}: install another version" in str(plugins["modern"].error)
    assert "it is for zoo" not in str(plugins["wrong"].error)


def test_narrowing_never_runs_the_rest(make_plugin: Callable[..., Path], tmp_path: Path) -> None:
    make_plugin("hostile", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    plugins = _by_name(load_plugins(only={"heads"}))
    assert plugins["hostile"].status == "blocked"
    assert plugins["heads"].status == "ok"
    assert not (tmp_path / "ran").exists()


def test_every_broken_plugin_at_once_on_the_command_line(
    make_plugin: Callable[..., Path], zoo_process: Callable[..., Any]
) -> None:
    for name, (source, _) in BROKEN.items():
        site = make_plugin(name, source)
    listed = zoo_process("plugins", "list", "--json", PYTHONPATH=str(site))
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert {name for name, row in rows.items() if row["status"] == "broken"} == set(BROKEN)
    assert listed.returncode == 0
    assert zoo_process("list", "backbones", PYTHONPATH=str(site)).returncode == 0
    make_plugin("liar", LIAR)
    lying = zoo_process("plugins", "check", "liar", PYTHONPATH=str(site))
    assert (lying.returncode, lying.stdout) == (5, "glyphnet: num_features: 113 declared, pool gives (3, 112)\n")
    shown = zoo_process("plugins", "check", "misspelt", PYTHONPATH=str(site))
    assert shown.returncode == 5
    assert "did you mean 'zoo_backbones'?" in shown.stderr
