"""The verb `card`: what an exported model says of itself, for people and for those who keep lists of components."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from zoo.artifacts.files import sha256_file, write_bytes
from zoo.artifacts.manifest import ModelManifest
from zoo.report.page import check_target, render
from zoo.report.sbom import bill_of_materials, source_weights, spdx_id, weights_license
from zoo.runtime.model import OnnxModel

MARKER = "made by zoo card"
"""What marks both files as ours."""
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def write_card(path: Path, folder: Path) -> dict[str, Any]:
    """Writes `<stem>.md`, a model card, and `<stem>.cdx.json`, a bill of materials, and gives their paths.

    All of it is read from the model's manifest; nothing is measured. Raises ModelError for a damaged file and one that
    Zoo did not export, UsageError where a file is in the way that this command did not write, MissingExtraError without
    the extra `card`.
    """
    card, sbom = folder / f"{path.stem}.md", folder / f"{path.stem}.cdx.json"
    check_target(card, MARKER, "card")
    check_target(sbom, MARKER, "card")
    model = OnnxModel(path, device="cpu")
    manifest, digest = model.require_manifest("card"), sha256_file(path)
    facts = {
        "file": path.name,
        "argument": shlex.quote(path.name),
        "name": path.stem,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "manifest": manifest,
        "outputs": [tensor.name for tensor in model.outputs],
        "front": _front_matter(manifest),
        "splits": {words: (manifest.images or {}).get(split) for split, words in _SPLITS.items()},
        "accuracies": [_accuracy(manifest, split) for split in ("val", "test")],
        "sources": source_weights(manifest),
        "marker": MARKER,
    }
    materials = bill_of_materials(manifest, file=path.name, sha256=digest, card=card.name, marker=MARKER)
    write_bytes(card, (render("card.md", facts) + "\n").encode())
    write_bytes(sbom, materials.encode())
    return {"model": str(path), "card": str(card), "sbom": str(sbom)}


def _accuracy(manifest: ModelManifest, split: str) -> dict[str, Any]:
    """A row of the table of accuracies; an earlier Zoo wrote no counts and intervals."""
    name = f"{split}_accuracy"
    return {
        "split": _SPLITS[split],
        "share": manifest.metrics.get(name),
        "interval": (manifest.intervals95 or {}).get(name),
        "images": (manifest.images or {}).get(split),
    }


def _front_matter(manifest: ModelManifest) -> dict[str, Any]:
    """What hubs read (https://huggingface.co/docs/hub/model-cards): they know licences by SPDX names in lower case."""
    license_ = weights_license(manifest)
    if license_ is None:
        return {"license": "unknown", "license_name": None}
    known = spdx_id(license_)
    return {
        "license": known.lower() if known else "other",
        "license_name": None if known else license_,
    }
