"""What trainings came to, as registries keep it: the prior of recommendations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from zoo.artifacts.runs import RunFolder
from zoo.errors import RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One backbone with one strategy on one data set."""

    data: str
    """Name of the data set."""
    classes: int
    train_images: int
    """Images to train and to validate by."""
    backbone: str
    """`<plugin>/<name>@<tag>`."""
    strategy: str
    test_accuracy: float
    seconds: float

    @property
    def per_class(self) -> float:
        """Training images per class, in the mean."""
        return self.train_images / self.classes

    @property
    def task(self) -> tuple[str, int]:
        """What results must have in common to be compared: the data set, and how much of it."""
        return self.data, self.train_images


def result_of(run: RunFolder, data: str | None = None) -> Result:
    """What a finished run came to, on a data set called `data` (its file or folder where None).

    Raises RunError where it has not measured a test accuracy.
    """
    model, found, images = run.read_model(), run.read("result"), run.read("dataset")
    if found["test_accuracy"] is None:
        raise RunError(f"no test accuracy: {run.path}; train on data with test images")
    return Result(
        data=data or PurePath(images["source"]).stem,
        classes=len(images["classes"]),
        train_images=sum(sample["split"] != "test" for sample in images["samples"]),
        backbone=f"{model.backbone}@{model.weights}",
        strategy=found["strategy"],
        test_accuracy=found["test_accuracy"],
        seconds=round(found["seconds"], 1),
    )


def read_results(registries: Iterable[Mapping[str, Any]]) -> list[Result]:
    """The results in registries; of several about the same training the last one."""
    found = [Result(**row) for registry in registries for row in registry.get("results", ())]
    return list({(each.task, each.backbone, each.strategy): each for each in found}.values())


def add_results(registry: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The registry with these results beside its own, in a lasting order; they replace those of the same training."""
    own = [Result(**row) for row in registry.get("results", ())]
    both = {(each.task, each.backbone, each.strategy): each for each in (*own, *results)}
    return {**registry, "results": [asdict(both[key]) for key in sorted(both)]}
