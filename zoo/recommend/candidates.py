"""The pretrained backbones that can be compared here, and those whose weights would have to be fetched first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoo.catalogue import BackboneEntry, Catalogue
from zoo.catalogue.weights import is_at_hand
from zoo.specs import WeightsSpec


@dataclass(frozen=True, slots=True)
class Candidate:
    """An installed backbone with one of its pretrained sets."""

    entry: BackboneEntry
    weights: WeightsSpec

    @property
    def id(self) -> str:
        """`<plugin>/<name>@<tag>`."""
        return f"{self.entry.id}@{self.weights.tag}"


def find_candidates(catalogue: Catalogue, cache: Path) -> tuple[list[Candidate], list[Candidate]]:
    """Every listed backbone with weights that are at hand, once for each such set; and the others, with their default
    set."""
    here, elsewhere = [], []
    for entry in catalogue.backbones:
        every = [Candidate(entry, weights) for weights in entry.spec.weights]
        found = [each for each in every if is_at_hand(each.weights, cache)]
        here += found
        elsewhere += every[:1] if not found else []
    return here, elsewhere
