"""Several backbones as one, found by name."""

from __future__ import annotations

from zoo.catalogue import BackboneEntry, Catalogue
from zoo.catalogue.composites import ARROW, PLUS, parse_chain, parse_fusion, separator
from zoo.errors import UsageError
from zoo.nn.chain import ChainEntry
from zoo.nn.side_by_side import FusedEntry

CompositeEntry = ChainEntry | FusedEntry
Entry = BackboneEntry | CompositeEntry


def find_backbone(catalogue: Catalogue, name: str) -> Entry:
    """The backbone `<plugin>/<name>`, or several as one: `A[:7] -> B[5:]`, `A + B`.

    Raises UsageError for an unknown name, or for backbones that do not fit together.
    """
    sign = separator(name)
    if sign is None:
        return catalogue.find_backbone(name)[0]
    if sign == PLUS:
        return FusedEntry(links=tuple(catalogue.find_backbone(each)[0] for each in parse_fusion(name)))
    names, joints = parse_chain(name)
    if joints is None:
        raise UsageError(f"a chain that does not say where it joins: {name!r}; give stages, as in 'A[:7]{ARROW}B[5:]'")
    return ChainEntry(links=tuple(catalogue.find_backbone(each)[0] for each in names), joints=joints)
