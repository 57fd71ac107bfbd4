"""Numbers as people read them, never parted from their units, and names as Markdown shows them."""

from __future__ import annotations

import re


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "-" if share is None else f"{100 * share:.1f}\u00a0%"


def interval(bounds: tuple[float, float] | None) -> str:
    """Both ends of an interval of shares, as percentages."""
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}\u00a0%"


def seconds(value: float) -> str:
    """A duration in units that fit it."""
    if value < 120:
        return f"{value:.1f}\u00a0s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: https://spec.commonmark.org/0.31.2/#backslash-escapes."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~&])", r"\\\1", " ".join(text.split()))
