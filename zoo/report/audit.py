"""An audit as a page, with the images in question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.artifacts.files import write_bytes
from zoo.report.mistakes import thumbnail
from zoo.report.page import GENERATOR, check_target, render

_FINDINGS = 60
"""Of one kind; more make no page anybody reads."""
_FILES = 4


def check_page(out: Path) -> None:
    """Raises UsageError where `out` is something other than a page, before the work begins."""
    check_target(out, GENERATOR, "report")


def audit_page(found: Mapping[str, Any], out: Path) -> None:
    """Writes what `zoo data check` found to one self-contained page. Raises UsageError where `out` is not a page's."""
    check_page(out)
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for finding in found["findings"]:
        kinds.setdefault((finding["severity"], finding["kind"]), []).append(finding)
    root = Path(found["root"])
    groups = [
        {
            "severity": severity,
            "kind": kind,
            "count": len(findings),
            "findings": [
                {**each, "images": [(file, thumbnail(root / file)) for file in each["files"][:_FILES]]}
                for each in findings[:_FINDINGS]
            ],
        }
        for (severity, kind), findings in kinds.items()
    ]
    write_bytes(out, render("audit.html", {**found, "groups": groups}).encode())
