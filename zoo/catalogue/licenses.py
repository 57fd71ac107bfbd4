"""Which licences let weights be used for anything, sold products included."""

from __future__ import annotations

PERMISSIVE = frozenset(
    ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT"]
)
"""By their SPDX identifiers: they ask for a mention at most."""


def has_license(license_: str, wanted: str | None) -> bool:
    """Whether a licence is the `wanted` one, or one of `PERMISSIVE` where `permissive` is wanted; None wants any."""
    return wanted is None or license_ == wanted or (wanted == "permissive" and license_ in PERMISSIVE)
