"""What registries know of the data that weights were pretrained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo.artifacts.files import sha256_file
from zoo.artifacts.runs import RunFolder
from zoo.catalogue import Catalogue
from zoo.catalogue.registry import packaged_registry
from zoo.data.splits import open_dataset
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import probe_sources
from zoo.progress import Progress
from zoo.recommend.candidates import Candidate
from zoo.recommend.similarity import SourceStatistics

_DIGITS = 5


def known_source(candidate: Candidate, catalogue: Catalogue) -> SourceStatistics | None:
    """What a registry knows of the source data of these very weights."""
    for registry in (*reversed(catalogue.registries), packaged_registry()):
        for row in registry.get("sources", ()):
            if row["weights"] == candidate.id and row["sha256"].startswith(candidate.weights.sha256 or "-"):
                return SourceStatistics.from_json(row)
    return None


def source_row(name: str, data: str, environment: Environment, progress: Progress) -> dict[str, Any]:
    """The row of a registry about the backbone `name`, `data` being images like those it was pretrained on."""
    images = open_dataset(data, cache=environment.cache, progress=progress, val_share=0)
    with TemporaryDirectory() as folder:
        request = FinetuneRequest(data=data, backbone=name, strategy="probe")
        sources = probe_sources(request, images, RunFolder(Path(folder)), environment, progress)
        found = SourceStatistics.of(sources.features("train", taps=0)[0][:, 0].double().numpy())
    resolved = sources.resolved
    assert resolved.weights is not None  # a probe has pretrained ones
    numbers = {"mean": found.mean, "std": found.std}
    return {
        "weights": f"{resolved.backbone.id}@{resolved.weights_name}",
        "sha256": sha256_file(resolved.weights),
        **{key: [float(f"{number:.{_DIGITS}g}") for number in value] for key, value in numbers.items()},
    }


def with_source(registry: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The registry with this row, in place of one about the same weights."""
    others = [other for other in registry.get("sources", ()) if other["weights"] != row["weights"]]
    return {**registry, "sources": sorted([*others, row], key=lambda each: each["weights"])}
