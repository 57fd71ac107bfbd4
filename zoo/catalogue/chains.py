"""The names of chains, backbones one after the other: `A -> B`, or with the stages of each, `A[:7] -> B[5:]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from zoo.errors import UsageError

ARROW = " -> "
_LINK = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Where one backbone hands over to the next: the first goes on to stage `stop` (exclusive), and the second goes on
    from its stage `start`."""

    stop: int
    start: int


def is_chain(name: str) -> bool:
    """Whether the name of a backbone is that of several."""
    return ARROW.strip() in name


def parse(name: str) -> tuple[list[str], tuple[Joint, ...] | None]:
    """The backbones of a chain, and where they join; None for that where it is left open.

    Raises UsageError where it cannot be read, or a backbone is there twice.
    """
    found = [_LINK.fullmatch(part.strip()) for part in name.split(ARROW.strip())]
    parts = [match for match in found if match is not None]
    names = [match["name"].strip() for match in parts]
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
