"""Finding plugins, trying each alone, admitting those that work."""

from zoo.plugins.loader import Plugin, load_plugins

__all__ = ["Plugin", "load_plugins"]
