"""Facts laid out by a template of this package."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zoo import __version__


def render(template: str, **facts: Any) -> str:
    """The text by `template`; its filter `quoted` gives JSON, which YAML, Dockerfiles and protobuf read alike."""
    templates = Environment(
        loader=PackageLoader("zoo.deploy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["quoted"] = quoted
    return templates.get_template(template).render(facts, zoo_version=__version__)


def quoted(value: Any) -> str:
    """`value` as JSON, its letters as they are: not all readers know JSON's pairs of surrogates."""
    return json.dumps(value, ensure_ascii=False)
