"""What Zoo knows: installed backbones and heads by name, and registry.json."""

from zoo.catalogue.catalogue import BackboneEntry, Catalogue, HeadEntry

__all__ = ["BackboneEntry", "Catalogue", "HeadEntry"]
