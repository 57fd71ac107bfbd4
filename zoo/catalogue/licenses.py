"""Which licences let weights be used for anything, sold products included."""

from __future__ import annotations

PERMISSIVE = frozenset(
    ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT"]
)
"""By their SPDX identifiers, in whose case nothing lies: they ask for a mention at most."""
_PERMISSIVE = {name.casefold() for name in PERMISSIVE}


def has_license(license_: str, wanted: str | None) -> bool:
    """Whether a licence is the `wanted` one, or one of `PERMISSIVE` where `permissive` is wanted; None wants any."""
    given = license_.casefold()
    return wanted is None or given == wanted.casefold() or (wanted == "permissive" and given in _PERMISSIVE)
