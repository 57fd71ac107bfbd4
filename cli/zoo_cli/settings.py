"""What environment variables and the config file say. The library never reads them; it is handed the values."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.catalogue import Catalogue
    from zoo.finetune.resolve import Environment
    from zoo.plugins import Plugin


def cache_folder() -> Path:
    """`$ZOO_CACHE`, or the platform's place for caches."""
    chosen = os.environ.get("ZOO_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("zoo", appauthor=False)


@cache
def plugins() -> Sequence[Plugin]:
    """The installed plugins, narrowed by `$ZOO_PLUGINS` (names separated by commas; empty: none)."""
    from zoo.plugins import load_plugins

    names = os.environ.get("ZOO_PLUGINS")
    return load_plugins(None if names is None else {name.strip() for name in names.split(",") if name.strip()})


@cache
def registries() -> Sequence[dict[str, Any]]:
    """The registries beside Zoo's own: those of the config file, of `$ZOO_REGISTRY` and of `zoo --registry`."""
    from zoo.catalogue.sources import open_registry
    from zoo_cli.render import Progress

    named = [*_listed("registry"), *os.environ.get("ZOO_REGISTRY", "").split(), *_given]
    return [open_registry(source, cache_folder(), Progress()) for source in named]


_given: list[str] = []


def add_registries(sources: Sequence[str]) -> None:
    """Takes in what `zoo --registry` names."""
    _given[:] = sources
    registries.cache_clear()
    catalogue.cache_clear()


@cache
def catalogue() -> Catalogue:
    """The installed plugins, and what registries know of them."""
    from zoo.catalogue import Catalogue

    return Catalogue(plugins(), registries())


def weights_mirror() -> str | None:
    """`$ZOO_WEIGHTS_MIRROR` or `weights_mirror` of the config file: where weights are fetched from instead."""
    return os.environ.get("ZOO_WEIGHTS_MIRROR") or next(iter(_listed("weights_mirror")), None)


def config_file() -> Path:
    """`$ZOO_CONFIG`, or `config.toml` in the platform's place for settings."""
    chosen = os.environ.get("ZOO_CONFIG")
    if chosen:
        return Path(chosen)
    from platformdirs import user_config_path

    return user_config_path("zoo", appauthor=False) / "config.toml"


def _listed(key: str) -> list[str]:
    """The words under `key` in the config file, one or a list; none where there is no file."""
    import tomllib

    path = config_file()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UsageError(f"config file: {path} ({error}); mend it or take it away") from None
    unknown = sorted(found.keys() - _KEYS)
    if unknown:
        raise UsageError(f"config file: {path} has an unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}")
    value = found.get(key, [])
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"config file: {path}, {key}: {value!r}; must be a text or a list of texts")
    return words


_KEYS = {"registry", "weights_mirror"}


def environment() -> Environment:
    """What training needs to know of the surroundings."""
    from zoo.finetune.resolve import Environment

    return Environment(catalogue=catalogue(), cache=cache_folder(), mirror=weights_mirror())
