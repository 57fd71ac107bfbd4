"""`zoo plugins install|remove`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated, Any

import typer

from zoo.errors import PluginError, UsageError, did_you_mean
from zoo_cli.command import command
from zoo_cli.render import Output
from zoo_cli.settings import catalogue, plugins

_TRUST = "A plugin is code: it runs with your rights whenever Zoo starts. Install what you trust."


def add_to(group: typer.Typer) -> None:
    """Adds both commands to the group `plugins`."""
    command(group, "install")(_install)
    command(group, "remove")(_remove)


def _install(
    out: Output,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plugin in the directory, see `zoo plugins search`.")],
    any_: Annotated[
        bool, typer.Option("--any", help="Take NAME for pip's: a distribution, file or folder; source is built.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Install a plugin into this environment, and check that it does what it says and harms nothing."""
    from zoo.plugins.install import install, prepared

    with prepared(_requirement(name, any_=any_), source_too=any_, progress=out.progress) as packages:
        for package in packages:
            instead = f" instead of {package.replaces}" if package.replaces else ""
            brings = f", plugin {', '.join(package.plugins)}" if package.plugins else ""
            out.remark(f"{package.name} {package.version}{instead}{brings}: {package.summary} ({package.license})")
        out.remark(_TRUST)
        _ask(f"install {len(packages)} packages?", yes=yes)
        install(packages, out.progress)
        brought = [plugin for package in packages for plugin in package.plugins]
        installed = [
            {"name": p.name, "version": p.version, "replaces": p.replaces, "license": p.license} for p in packages
        ]
    checked = [_checked(plugin) for plugin in brought]

    def words() -> None:
        for row in checked:
            problems = [row["error"]] if row["error"] else [f"{f['spec']}: {f['message']}" for f in row["findings"]]
            for problem in problems:
                out.line(f"{row['plugin']}: {problem}")
            if problems:
                out.line(f"`zoo plugins remove {row['plugin']}` takes it out again")
            else:
                brings = ", ".join([*row["backbones"], *row["heads"]]) or "a tracker"
                out.line(f"{row['plugin']}: {brings}; does what it says")

    out.result({"installed": installed, "plugins": checked}, words)
    if any(row["error"] or row["findings"] for row in checked):
        raise typer.Exit(PluginError.exit_code)


def _remove(
    out: Output,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An installed plugin.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the distribution that brought a plugin; what it needed stays."""
    from zoo.plugins.install import remove

    plugin = catalogue().find_plugin(name)
    if plugin.distribution == "zoo":
        raise UsageError(f"{name} comes with Zoo itself; ZOO_PLUGINS without its name leaves it out")
    others = [other.name for other in plugins() if other.distribution == plugin.distribution and other.name != name]
    also = f" and with it the plugins {', '.join(others)}" if others else ""
    _ask(f"remove {plugin.source}{also}?", yes=yes)
    remove(plugin.distribution)
    out.result(
        {"removed": plugin.distribution, "version": plugin.version, "plugins": [name, *others]},
        lambda: out.line(f"removed {plugin.source}"),
    )


def _requirement(name: str, *, any_: bool) -> str:
    """What pip is to install for the plugin `name`."""
    entry = catalogue().directory.get(name)
    if any_:
        return name
    if entry is None:
        hint = did_you_mean(name, catalogue().directory) or "see `zoo plugins search`"
        raise UsageError(f"no plugin of that name in the directory: {name!r}; {hint}, or give --any to trust it anyway")
    if entry["distribution"] == "zoo":
        raise UsageError(f"{name} comes with Zoo itself: nothing to install")
    return str(entry["distribution"])


def _checked(name: str) -> dict[str, Any]:
    """What a plugin brought and how it keeps to the contract, seen by a process that knows of it."""
    facts = _zoo("plugins", "show", name)
    findings = _zoo("plugins", "check", name)["findings"] if facts["status"] == "ok" else []
    wanted = ("error", "backbones", "heads")
    return {"plugin": name, **{key: facts[key] for key in wanted}, "findings": findings}


def _zoo(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "zoo_cli", *words, "--json"]
    environ = {name: value for name, value in os.environ.items() if name != "ZOO_PLUGINS"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise PluginError(f"zoo {' '.join(words)} ended without an answer; `zoo plugins remove` takes it out") from None
    return found


def _ask(question: str, *, yes: bool) -> None:
    if not yes and not typer.confirm(question, err=True):
        raise UsageError("nothing done; answer y, or give --yes")
