"""Faults planted in a real data set, and which of them `zoo data check` finds; false alarms on clean ones.

    python benchmarks/audit.py SHARED --cache CACHE

SHARED holds `data/*.zip` and `weights/*.pth`. Into a copy of flowers5 go, each on images of its own: truncated files,
copies of training images among the test images (as they are, rescaled, encoded anew), copies within the training images
(the same three ways), and training images under another class (5 %).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image
from reporting import report

from zoo.audit.run import check_data
from zoo.catalogue import Catalogue
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.progress import Silent

_EACH = 20
_SWAPPED = 0.05
_KINDS = {"truncated": {"unreadable"}, "swapped label": {"suspect label"}}
_DUPLICATES = {"leak", "duplicate", "near duplicate", "contradiction"}
_CLEAN = ("flowers5", "trashnet6", "sign_digits10", "bccd_cells3", "aerial_patches5")
_WEIGHTS = {"torchvision/mobilenet_v2": "mobilenet_v2-4b92a41a.pth", "tiny/glyphnet": None}


def plant(root: Path, seed: int) -> dict[str, set[str]]:
    """Spoils the data set in `root`, and gives the files that each kind of fault is in."""
    shuffle = random.Random(seed)
    images = sorted((root / "train").rglob("*.jpg"))
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    shuffle.shuffle(images)
    planted: dict[str, set[str]] = {}

    def note(kind: str, path: Path) -> None:
        planted.setdefault(kind, set()).add(path.relative_to(root).as_posix())

    for _ in range(round(_SWAPPED * len(images))):
        path = images.pop()
        other = shuffle.choice([name for name in classes if name != path.parent.name])
        note("swapped label", path.rename(root / "train" / other / f"swapped-{path.name}"))
    for split in ("test", "train"):
        for way in ("exact", "rescaled", "encoded anew"):
            for _ in range(_EACH):
                path = images.pop()
                copy = root / split / path.parent.name / f"{way.replace(' ', '-')}-{path.name}"
                _copy(path, copy, way, shuffle)
                note(f"{way} copy in {split}", copy)
    for _ in range(_EACH):
        path = images.pop()
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        note("truncated", path)
    return planted


def _copy(path: Path, copy: Path, way: str, shuffle: random.Random) -> None:
    if way == "exact":
        copy.write_bytes(path.read_bytes())
        return
    image = Image.open(path).convert("RGB")
    if way == "rescaled":
        share = shuffle.choice((0.5, 0.7, 1.5))
        image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)
    image.save(copy, quality=90 if way == "rescaled" else shuffle.randint(40, 70))


def recall_and_precision(found: dict[str, Any], planted: dict[str, set[str]]) -> list[dict[str, Any]]:
    """For each kind of fault the share that was found, and the share of such findings that were planted."""
    rows = []
    for kind, files in planted.items():
        wanted = _KINDS.get(kind, _DUPLICATES)
        findings = [finding for finding in found["findings"] if finding["kind"] in wanted]
        named = {file for finding in findings for file in finding["files"]}
        copies = {file for name, some in planted.items() if _KINDS.get(name, _DUPLICATES) == wanted for file in some}
        true = sum(not copies.isdisjoint(finding["files"]) for finding in findings)
        rows.append(
            {
                "fault": kind,
                "planted": len(files),
                "found": len(files & named) / len(files),
                "findings of its kind": len(findings),
                "of these planted": true / len(findings) if findings else None,
            }
        )
    return rows


def alarms(found: dict[str, Any]) -> float:
    """The share of images named in an error or a warning."""
    named = {file for finding in found["findings"] if finding["severity"] != "remark" for file in finding["files"]}
    return len(named) / found["statistics"]["images"]


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    around = Environment(catalogue=Catalogue.installed(), cache=arguments.cache)
    rows = []

    def check(data: str, backbone: str) -> dict[str, Any]:
        file = _WEIGHTS[backbone]
        weights = str(arguments.shared / "weights" / file) if file else None
        asked = FinetuneRequest(data=data, backbone=backbone, weights=weights, device="cpu", threads=1)
        return check_data(asked, around, Silent())

    for backbone in _WEIGHTS:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(arguments.shared / "data" / "flowers5.zip") as archive:
                archive.extractall(folder)
            planted = plant(Path(folder), arguments.seed)
            found = check(folder, backbone)
        # All but the labels is found alike.
        shown = recall_and_precision(found, planted)
        rows += [{"labels judged by": backbone, **row} for row in (shown[:1] if rows else shown)]
        for name in _CLEAN:
            found = check(str(arguments.shared / "data" / f"{name}.zip"), backbone)
            suspects = sum(finding["kind"] == "suspect label" for finding in found["findings"])
            share = suspects / found["statistics"]["images"]
            rows.append({"labels judged by": backbone, "clean": name, "alarms": alarms(found), "suspects": share})
    found = check("builtin:digits", "tiny/glyphnet")
    rows.append({"labels judged by": "tiny/glyphnet", "clean": "digits", "alarms": alarms(found)})
    report(rows, arguments.out)


if __name__ == "__main__":
    main()
