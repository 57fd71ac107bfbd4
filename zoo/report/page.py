"""Facts laid out by a template: of a run as one HTML page that needs nothing beside itself, of a model as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from zoo.errors import UsageError
from zoo.report.words import interval, markdown, percent, seconds

GENERATOR = '<meta name="generator" content="zoo report">'
"""What marks a page as ours."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The page by a template of this package; in HTML everything in `facts` but finished markup is escaped."""
    templates = Environment(
        loader=PackageLoader("zoo.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "interval": interval, "seconds": seconds, "markdown": markdown}
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # YAML does not know JSON's pairs of surrogates
    return templates.get_template(template).render(facts, generator=GENERATOR)


def check_target(out: Path, marker: str, kind: str) -> None:
    """Raises UsageError where the folder of `out` is missing, or `out` is there and does not hold `marker`."""
    if not out.parent.is_dir():
        raise UsageError(f"no such folder: {out.parent}; make it first")
    if out.exists() and not (out.is_file() and marker.encode() in out.read_bytes()):
        raise UsageError(f"already there and not a {kind}: {out}; choose another -o")
