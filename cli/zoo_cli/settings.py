"""What the environment variables say. The library never reads them; it is handed the values."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.catalogue import Catalogue
    from zoo.finetune.resolve import Environment


def cache_folder() -> Path:
    """`$ZOO_CACHE`, or the platform's place for caches."""
    chosen = os.environ.get("ZOO_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("zoo", appauthor=False)


@cache
def catalogue() -> Catalogue:
    """The installed plugins, narrowed by `$ZOO_PLUGINS` (names separated by commas; empty: none)."""
    from zoo.catalogue import Catalogue

    names = os.environ.get("ZOO_PLUGINS")
    return Catalogue.installed(None if names is None else {name.strip() for name in names.split(",") if name.strip()})


def weights_mirror() -> str | None:
    """`$ZOO_WEIGHTS_MIRROR`: where weights are fetched from instead of their own addresses."""
    return os.environ.get("ZOO_WEIGHTS_MIRROR") or None


def environment() -> Environment:
    """What training needs to know of the surroundings."""
    from zoo.finetune.resolve import Environment

    return Environment(catalogue=catalogue(), cache=cache_folder(), mirror=weights_mirror())
