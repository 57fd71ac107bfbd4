"""A new plugin package: complete, installable, and true in every line before its author changes the first."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from zoo import __version__
from zoo.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "LICENSE": "LICENSE",
    "{module}/__init__.py": "__init__.py",
    "{module}/_build.py": "_build.py",
    "tests/test_contract.py": "test_contract.py",
}
"""Each file of the package, and the template it is made from."""


def scaffold(name: str, parent: Path, *, taken: Iterable[str] = ()) -> Path:
    """Writes the package of a plugin called `name` into a new folder of `parent`, and gives that folder.

    Raises UsageError for a name that no plugin can have or that is one of `taken`, and where the folder is there.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if not _NAME.match(name) or keyword.iskeyword(name):
        raise UsageError(f"plugin name: {name!r}; lower case letters, digits and '_', beginning with a letter")
    if name in taken:
        raise UsageError(f"plugin name: {name!r}; a plugin of that name is installed, take another")
    distribution = f"zoo-{name.replace('_', '-')}"
    folder = parent / distribution
    if folder.exists():
        raise UsageError(f"folder exists: {folder}; take another name or give --out")
    facts = {"name": name, "module": f"zoo_{name}", "distribution": distribution, "zoo_version": __version__}
    templates = Environment(
        loader=PackageLoader("zoo.plugins", "template"), keep_trailing_newline=True, undefined=StrictUndefined
    )
    for target, template in _FILES.items():
        path = folder / target.format(**facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = templates.get_template(f"{template}.jinja").render(**facts, year=date.today().year)
        path.write_text(text, encoding="utf-8")
    return folder
