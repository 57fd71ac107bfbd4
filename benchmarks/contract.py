"""The contract of `zoo.testing`, the export to ONNX included, on many backbones: which pass, and why the rest do not.

    python benchmarks/contract.py --backbones timm
    python benchmarks/contract.py --backbones torchvision

Random weights, each backbone at its own input size and in a process of its own. Finished rows are kept in --cells: a
benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import report

from zoo.catalogue import Catalogue

_TIMM = Path(__file__).with_name("contract_timm.txt")
"""Small ones of nearly every family that timm has a module for."""
_ONE = """
import json, sys, time
from zoo.catalogue import Catalogue
from zoo.testing import check_backbone
start = time.monotonic()
spec = Catalogue.installed().find_backbone(sys.argv[1])[0].spec
resolved = time.monotonic() - start
findings = check_backbone(spec, deep=True)
print(json.dumps({
    "stages": len(spec.stages), "params": spec.params, "macs": spec.macs, "resolved": resolved,
    "seconds": time.monotonic() - start - resolved, "findings": [finding.message for finding in findings],
}))
"""


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", choices=["timm", "torchvision"], required=True)
    parser.add_argument("--only", help="only backbones whose name contains this")
    parser.add_argument("--cells", type=Path, help="a file of finished rows, to go on from")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    listed = [entry.id for entry in Catalogue.installed().backbones]
    names = [f"timm/{name}" for name in _TIMM.read_text().split()] if arguments.backbones == "timm" else listed
    names = [name for name in names if name.startswith(arguments.backbones) and (arguments.only or "") in name]
    log = arguments.cells or Path(tempfile.mkdtemp()) / "cells.jsonl"
    done = {row["backbone"]: row for row in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    for name in names:
        if name not in done:
            done[name] = {"backbone": name, **_check(name)}
            with log.open("a") as file:
                file.write(json.dumps(done[name]) + "\n")
    rows = [{**done[name], "findings": "; ".join(done[name]["findings"]) or "none"} for name in names]
    report(rows, arguments.out)
    passed = sum(not done[name]["findings"] for name in names)
    print(f"{passed} of {len(names)} pass ({passed / len(names):.1%})")


def _check(name: str) -> dict[str, Any]:
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", _ONE, name], capture_output=True, text=True)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        unknown = dict.fromkeys(("stages", "params", "macs", "resolved"))
        return {**unknown, "seconds": time.monotonic() - start, "findings": [last]}
    row: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
