"""Facts laid out as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zoo.errors import UsageError
from zoo.report.words import interval, percent, seconds

GENERATOR = '<meta name="generator" content="zoo report">'
"""What marks a page as ours."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The page by a template of this package; everything in `facts` but finished markup is escaped."""
    templates = Environment(
        loader=PackageLoader("zoo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "interval": interval, "seconds": seconds}
    return templates.get_template(template).render(facts, generator=GENERATOR)


def check_page_target(out: Path) -> None:
    """Refuses, with UsageError, to overwrite what is not a page of ours."""
    if not out.parent.is_dir():
        raise UsageError(f"no such folder: {out.parent}; make it first")
    if out.exists() and not (out.is_file() and GENERATOR.encode() in out.read_bytes()):
        raise UsageError(f"already there and not a report: {out}; choose another file")
