"""A data set as a manifest: which file carries which label, in which split, with a digest of its bytes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zoo.artifacts.runs import RunFolder

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled file."""

    file: str
    """Path relative to the data set's root, with forward slashes."""
    label: int
    split: Split
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Labelled files with their splits. `classes[label]` is a label's name."""

    source: str
    """What the user gave as DATA."""
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def of(self, split: Split) -> list[Sample]:
        """The samples of one split, in file order."""
        return [sample for sample in self.samples if sample.split == split]

    def path(self, sample: Sample) -> Path:
        """Where a sample's file is."""
        return self.root / sample.file

    def without(self, bad: set[str]) -> DataSet:
        """This data set without the files named in `bad`."""
        return replace(self, samples=tuple(s for s in self.samples if s.file not in bad))

    def tested_by_validation(self) -> DataSet:
        """This data set with its validation samples as the test split, and without its own."""
        train, val = self.of("train"), self.of("val")
        return replace(self, samples=(*train, *(replace(sample, split="test") for sample in val)))

    @property
    def fingerprint(self) -> str:
        """A sha256 over labels, splits and file contents; names and places of files do not count."""
        lines = sorted(f"{s.split} {self.classes[s.label]} {s.sha256}" for s in self.samples)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Samples per split."""
        return dict(Counter(sample.split for sample in self.samples))

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {
            "source": self.source,
            "root": str(self.root),
            "classes": list(self.classes),
            "fingerprint": self.fingerprint,
            "counts": self.counts(),
            "samples": [asdict(sample) for sample in self.samples],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataSet:
        """The data set that `to_json` wrote down."""
        return cls(
            source=value["source"],
            root=Path(value["root"]),
            classes=tuple(value["classes"]),
            samples=tuple(Sample(**sample) for sample in value["samples"]),
        )


def trained_on(run: RunFolder) -> set[str]:
    """Digests of the images that the weights of a finished run were fitted on."""
    used, splits = DataSet.from_json(run.read("dataset")), run.read("result")["fitted_splits"]
    return {sample.sha256 for sample in used.samples if sample.split in splits}
