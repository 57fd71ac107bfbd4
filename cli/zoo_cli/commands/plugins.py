"""`zoo plugins list|search|show|install|remove|check|new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import PluginError
from zoo_cli.command import command
from zoo_cli.commands import plugin_install
from zoo_cli.render import Output
from zoo_cli.settings import cache_folder, catalogue, plugins


def add_to(app: typer.Typer) -> None:
    """Adds the group `plugins`."""
    group = typer.Typer(name="plugins", help="The plugins of this environment.", no_args_is_help=True)
    command(group, "list")(_list)
    command(group, "search")(_search)
    command(group, "show")(_show)
    plugin_install.add_to(group)
    command(group, "check")(_check)
    command(group, "new")(_new)
    app.add_typer(group)


def _list(out: Output) -> None:
    """List every plugin, working or not, and what is wrong with it. Never fails."""
    rows = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "error": plugin.error,
            "backbones": len(plugin.backbones),
            "heads": len(plugin.heads),
            "resolves": plugin.resolves,
            "follows_runs": plugin.follows_runs,
        }
        for plugin in plugins()
    ]
    out.result(
        rows,
        lambda: out.table(
            ["status", "plugin", "distribution", "brings"],
            [
                (
                    row["status"],
                    row["name"],
                    f"{row['distribution']} {row['version']}",
                    row["error"]
                    or f"{row['backbones']} backbones, {row['heads']} heads"
                    + (", backbones by name" if row["resolves"] else "")
                    + (", follows runs" if row["follows_runs"] else ""),
                )
                for row in rows
            ],
        ),
    )


def _check(
    out: Output,
    name: Annotated[
        str,
        typer.Argument(metavar="PLUGIN[/BACKBONE]", help="A plugin in `zoo plugins list`, or one of its backbones."),
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Also export every backbone to ONNX and compare.")] = False,
) -> None:
    """Check that a plugin's backbones, its weights where they have been fetched, and its heads do what specs say."""
    plugin = catalogue().find_plugin(name.partition("/")[0])
    if plugin.status != "ok":
        raise PluginError(f"plugin {plugin.name!r} cannot be used: {plugin.error or 'left out by ZOO_PLUGINS'}")
    from zoo.catalogue.weights import weights_path
    from zoo.testing import check_backbone, check_head, check_plugin, check_weights

    backbones, heads = plugin.backbones, plugin.heads
    if plugin.name != name:
        backbones, heads = [catalogue().find_backbone(name)[0].spec], []
    rows = [{"spec": plugin.name, "what": f.what, "message": f.message} for f in check_plugin(plugin)]
    at_hand = [
        (backbone, weights, path)
        for backbone in backbones
        for weights in backbone.weights
        if (path := weights_path(weights, cache_folder())).is_file()
    ]
    with out.progress.task(f"checking {name}", len(backbones) + len(at_hand) + len(heads)) as task:
        for backbone in backbones:
            findings = check_backbone(backbone, deep=deep)
            rows += [{"spec": backbone.name, "what": f.what, "message": f.message} for f in findings]
            task.advance(1, backbone.name)
        for backbone, weights, path in at_hand:
            findings = check_weights(backbone, weights, path)
            rows += [{"spec": backbone.name, "what": f.what, "message": f.message} for f in findings]
            task.advance(1, f"{backbone.name}@{weights.tag}")
        for head in heads:
            findings = check_head(head)
            rows += [{"spec": head.name, "what": f.what, "message": f.message} for f in findings]
            task.advance(1, head.name)

    def words() -> None:
        for row in rows:
            out.line(f"{row['spec']}: {row['message']}")
        if not rows:
            out.line(
                f"{name}: {len(backbones)} backbones, {len(heads)} heads and {len(at_hand)} pretrained sets at hand do "
                "what they say"
            )

    checked = [f"{backbone.name}@{weights.tag}" for backbone, weights, _ in at_hand]
    out.result({"plugin": plugin.name, "ok": not rows, "findings": rows, "weights": checked}, words)
    if rows:
        raise typer.Exit(PluginError.exit_code)


def _new(
    out: Output,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new plugin's name, e.g. mynet.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the folder zoo-NAME is made.")] = Path(),
) -> None:
    """Write the package of a new plugin: it installs, passes its tests and trains as it is."""
    from zoo.plugins.scaffold import scaffold

    made = scaffold(name, folder, taken=[plugin.name for plugin in plugins()])
    files = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())

    def words() -> None:
        out.line(f"{made}: {', '.join(files)}")
        out.line(f"next: cd {made} && pip install -e '.[test]' && pytest && zoo show {name}/{name}")

    out.result({"path": str(made), "plugin": name, "backbone": f"{name}/{name}", "files": files}, words)


def _search(
    out: Output,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Only plugins whose name or summary has this.")] = "",
) -> None:
    """Search the directory of plugins that can be installed, in Zoo's registry and those beside it."""
    here = {plugin.name: plugin.source for plugin in plugins()}
    rows = [
        {**entry, "installed": here.get(name)}
        for name, entry in sorted(catalogue().directory.items())
        if text.lower() in f"{name} {entry['distribution']} {entry['summary']}".lower()
    ]
    out.result(
        rows,
        lambda: out.table(
            ["plugin", "distribution", "installed", "summary"],
            [(row["name"], row["distribution"], row["installed"], row["summary"]) for row in rows],
        ),
    )


def _show(out: Output, name: Annotated[str, typer.Argument(metavar="NAME", help="An installed plugin.")]) -> None:
    """Show where an installed plugin comes from and what it brings."""
    from importlib.metadata import PackageNotFoundError, metadata

    plugin = catalogue().find_plugin(name)
    try:
        declared: Any = metadata(plugin.distribution)
    except PackageNotFoundError:
        declared = {}
    facts = {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "status": plugin.status,
        "error": plugin.error,
        "summary": plugin.summary,
        "license": declared.get("License-Expression") or declared.get("License"),
        "backbones": [f"{name}/{backbone.name}" for backbone in plugin.backbones],
        "heads": [f"{name}/{head.name}" for head in plugin.heads],
        "resolves": plugin.resolves,
        "follows_runs": plugin.follows_runs,
    }

    def words() -> None:
        for key, value in facts.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            if shown not in (None, "", False):
                out.line(f"{key.replace('_', ' ')}: {shown}")

    out.result(facts, words)
