"""The command line that a run's request came from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from zoo.finetune.request import FinetuneRequest


def command_line(request: Mapping[str, Any]) -> str:
    """`zoo finetune ...` with the options of `request` (as in request.json) that differ from their defaults.

    One option to a line, as a shell takes it.
    """
    defaults: dict[str, Any] = {
        field.name: None if field.default is MISSING else field.default for field in fields(FinetuneRequest)
    }
    options = {name: value for name, value in request.items() if name not in ("data", "head_options")}
    lines = [["zoo", "finetune", request["data"]]]
    for name, value in {**options, **request["head_options"]}.items():
        if value == defaults.get(name):
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            lines.append([f"--{option}" if value else f"--no-{option}"])
        else:
            lines.append([f"--{option}", ",".join(map(str, value)) if isinstance(value, list) else str(value)])
    return " \\\n  ".join(map(shlex.join, lines))


def fuse_command_line(request: Mapping[str, Any]) -> str:
    """`zoo finetune ... --cascade fuse` with the backbones of `request` (as in request.json) and its other options."""
    members = request["backbones"]
    rest = {name: value for name, value in request.items() if name not in ("backbone", "weights", "backbones")}
    lines = [["--backbone", member["backbone"]] for member in members]
    lines += [["--weights", member["weights"]] for member in members if member["weights"] is not None]
    return " \\\n  ".join([command_line(rest), *map(shlex.join, lines), "--cascade fuse"])


def after_command_line(request: Mapping[str, Any]) -> str:
    """`zoo finetune ... --after RUN` with the runs of `request` (as in request.json) and its other options."""
    rest = {name: value for name, value in request.items() if name != "after"}
    return " \\\n  ".join([command_line(rest), *(shlex.join(["--after", run]) for run in request["after"])])


def gate_command_line(request: Mapping[str, Any], out: Path) -> str:
    """`zoo cascade gate ...` with the options of `request` (as in request.json); one option to a line."""
    lines = [["zoo", "cascade", "gate", *request["runs"], request["data"], "--out", str(out)]]
    lines += [[f"--{name.replace('_', '-')}", f"{request[name]}"] for name in ("max_loss", "split", "seed")]
    return " \\\n  ".join(map(shlex.join, lines))
