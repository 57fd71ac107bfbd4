"""The names of several backbones as one: one after the other, `A -> B`, or with the stages of each, `A[:7] -> B[5:]`;
side by side, `A + B`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from zoo.errors import UsageError

ARROW = " -> "
PLUS = " + "
_BETWEEN = re.compile(r"\s+(->|\+)(?:\s+|$)")
_LINK = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Where one backbone hands over to the next: the first goes on to stage `stop` (exclusive), and the second goes on
    from its stage `start`."""

    stop: int
    start: int


def separator(name: str) -> str | None:
    """What stands between the backbones of a name: ARROW or PLUS; None in that of a single one.

    Raises UsageError where there are both.
    """
    found = {f" {sign} " for sign in _BETWEEN.findall(name)}
    if len(found) > 1:
        raise UsageError(f"a chain and a fusion in one: {name!r}; write either 'A -> B' or 'A + B'")
    return found.pop() if found else None


def split(text: str) -> list[str]:
    """What belongs to each backbone, of names, weights or distributions of several."""
    return _BETWEEN.sub("\n", text.strip()).split("\n")


def parse_fusion(name: str) -> list[str]:
    """The backbones of `A + B`. Raises UsageError where one is there twice, or has stages."""
    names = split(name)
    for number, each in enumerate(names):
        if not each or "[" in each:
            raise UsageError(f"not backbones side by side: {name!r}; write 'A + B', each of them whole")
        if each in names[:number]:
            raise UsageError(f"{each} is there twice: {name!r}; twins tell each other nothing")
    return names


def parse_chain(name: str) -> tuple[list[str], tuple[Joint, ...] | None]:
    """The backbones of a chain, and where they join; None for that where it is left open.

    Raises UsageError where it cannot be read, or a backbone is there twice.
    """
    found = [_LINK.fullmatch(part) for part in split(name)]
    parts = [match for match in found if match is not None]
    names = [match["name"] for match in parts]
    if len(parts) < len(found) or len({*(match[2] is None for match in parts)}) > 1:
        raise UsageError(f"not a chain: {name!r}; write 'A -> B', or with stages 'A[:7] -> B[5:]'")
    for number, each in enumerate(names):
        if each in names[:number]:
            raise UsageError(f"circular chain: {ARROW.join(names)}; {each} would feed itself: give each backbone once")
    if parts[0][2] is None:
        return names, None
    inner = [*((match["stop"], follower["start"]) for match, follower in pairwise(parts))]
    if parts[0]["start"] not in ("", "0") or parts[-1]["stop"] or not all(stop and start for stop, start in inner):
        raise UsageError(f"stages that make no chain: {name!r}; write 'A[:7] -> B[5:]', in the middle '[5:9]'")
    return names, tuple(Joint(stop=int(stop), start=int(start)) for stop, start in inner)
