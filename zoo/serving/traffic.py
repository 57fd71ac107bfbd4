"""A new version beside the one that answers: a canary takes some requests, a shadow hears them, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError

_SHARE = re.compile(r"(?P<name>.+):(?P<version>\d+)=(?P<percent>\d+(?:\.\d+)?)\Z")


@dataclass(frozen=True, slots=True)
class Share:
    """A version that is given a share of the requests that name none."""

    version: str
    share: float

    @classmethod
    def parse_all(cls, texts: Iterable[str], option: str) -> dict[str, Share]:
        """Shares by model, of texts such as `flowers:2=10`, in percent. Raises UsageError for others."""
        found: dict[str, Share] = {}
        for text in texts:
            match = _SHARE.match(text)
            if match is None or not 0 <= float(match["percent"]) <= 100:
                raise UsageError(f"{option} {text!r}; give NAME:VERSION=PERCENT, such as flowers:2=10")
            if match["name"] in found:
                raise UsageError(f"{option}: {match['name']} is given twice; one version of a model at a time")
            found[match["name"]] = cls(str(int(match["version"])), float(match["percent"]) / 100)
        return found

    def falls(self) -> bool:
        """Whether this request is one of them, by chance."""
        return random() < self.share


def agreement(
    names: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    ours: Sequence[NDArray[Any]],
    theirs: Sequence[NDArray[Any]],
) -> tuple[int, int]:
    """In how many rows two versions say the same, and how many there are.

    The same label where an output has `labels`; otherwise numbers within a hundredth, or equal values. `theirs` is
    empty where there was no answer.
    """
    if not theirs:
        return 0, len(ours[0]) if ours and ours[0].ndim else 1
    agreed: NDArray[np.bool_] | None = None
    for name, mine, other in zip(names, ours, theirs, strict=True):
        if mine.shape != other.shape or not mine.ndim:
            return 0, len(mine) if mine.ndim else 1
        if name in labels:
            same = mine.argmax(1) == other.argmax(1)
        elif mine.dtype.kind == "f":
            same = np.isclose(mine, other, rtol=1e-2, atol=1e-3, equal_nan=True).reshape(len(mine), -1).all(1)
        else:
            same = (mine == other).reshape(len(mine), -1).all(1)
        agreed = same if agreed is None else agreed & same
    return (0, 0) if agreed is None else (int(agreed.sum()), len(agreed))
