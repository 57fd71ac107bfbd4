"""Facts of a run laid out as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zoo.report.words import interval, percent, seconds

GENERATOR = '<meta name="generator" content="zoo report">'
"""What marks a page as ours."""


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The page of a run by a template of this package; everything in `facts` but finished markup is escaped."""
    templates = Environment(
        loader=PackageLoader("zoo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "interval": interval, "seconds": seconds}
    return templates.get_template(template).render(facts, generator=GENERATOR)
