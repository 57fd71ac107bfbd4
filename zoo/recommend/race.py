"""Candidates raced against each other: short trainings first, longer ones for those that are still in doubt."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.artifacts.runs import RunFolder
from zoo.data.dataset import DataSet
from zoo.data.store import labels
from zoo.finetune.request import FinetuneRequest, StrategyName
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune_on, resume
from zoo.finetune.strategies import STRATEGIES
from zoo.finetune.trial import drop_weights
from zoo.progress import Named, Progress
from zoo.recommend.candidates import Candidate
from zoo.recommend.prior import REFERENCE, Expectation

RUNGS = (0.1, 0.3)
"""Shares of the steps of a whole training; each time the worse half retires (Jamieson and Talwalkar 2016)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A backbone with a strategy, and how good it should be."""

    backbone: str
    """`<plugin>/<name>@<tag>`."""
    strategy: StrategyName
    probe_error: float
    """Error rate of a probe of this backbone, as leave-one-out regression sees it."""
    expectation: Expectation

    @property
    def error(self) -> float:
        """The error rate to expect."""
        return self.expectation.error(self.probe_error)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "error": self.error}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """What one training of a race came to."""

    backbone: str
    strategy: StrategyName
    share: float
    """Of the steps of a whole training; 1 of a probe, which takes none."""
    val_accuracy: float
    seconds: float
    right: Sequence[bool]
    """About which validation images."""

    @property
    def whole_seconds(self) -> float:
        """What a whole training would take."""
        return self.seconds / self.share


class Race:
    """Trainings on the training images of `data`, judged by its validation images, in the folder of `run`.

    They are over before the validation images are looked at.
    """

    def __init__(
        self,
        run: RunFolder,
        data: DataSet,
        asked: FinetuneRequest,
        candidates: Mapping[str, Candidate],
        environment: Environment,
        progress: Progress,
    ) -> None:
        # No training chooses by the images that judge it: what has chosen its own best moment by them looks too good.
        self._run, self._data, self._asked = run, data.tested_by_validation(), asked
        self._candidates, self._environment, self._progress = candidates, environment, progress
        self.heats: list[Heat] = []

    def decide(self, entrants: Sequence[Entrant], *, most_seconds: float | None = None) -> list[Entrant]:
        """Those that stay in the race to its end, with what was seen of them, and the probes; the best first.

        Whoever would take longer than `most_seconds` to the end, by the laps so far, is out.
        """
        left = [each for each in entrants if each.strategy != REFERENCE]
        probes = {each.backbone: self._heat(each, 1.0) for each in entrants if each.strategy == REFERENCE}
        heats: list[Heat] = []
        for share in RUNGS:
            heats = [self._heat(each, share) for each in left]
            if most_seconds is not None:
                kept = [number for number, heat in enumerate(heats) if heat.whole_seconds <= most_seconds]
                left, heats = [left[number] for number in kept], [heats[number] for number in kept]
            if share != RUNGS[-1]:
                order = sorted(range(len(left)), key=lambda number: heats[number].val_accuracy, reverse=True)
                left = [left[number] for number in order[: math.ceil(len(order) / 2)]]
        seen = [_after(each, heat, probes[each.backbone]) for each, heat in zip(left, heats, strict=True)]
        return sorted([*seen, *(each for each in entrants if each.strategy == REFERENCE)], key=lambda each: each.error)

    def _heat(self, entrant: Entrant, share: float) -> Heat:
        name = f"race of {entrant.backbone} {entrant.strategy} {share:g}"
        found = Heat(**self._run.decide(name, lambda: asdict(self._train(entrant.backbone, entrant.strategy, share))))
        self.heats.append(found)
        return found

    def _train(self, backbone: str, strategy: StrategyName, share: float) -> Heat:
        folder = self._run.path / "race" / f"{backbone.replace('/', '-')}-{strategy}-{share:g}"
        what = strategy if share == 1 else f"{share:.0%} of {strategy}"
        progress = Named(self._progress, f"{what}, {backbone}", remarks=False)
        if (folder / "request.json").is_file():
            result = resume(folder, self._environment, progress)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # cut off before all records were written
            request = self._request(backbone, strategy, share)
            result = finetune_on(self._data, request, folder, self._environment, progress)
        right = _right(folder, self._data)
        self._progress.say(f"{what}, {backbone}: validation accuracy {right.mean():.1%}")
        drop_weights(folder)
        return Heat(
            backbone=backbone,
            strategy=strategy,
            share=share,
            val_accuracy=float(right.mean()),
            seconds=result["seconds"],
            right=tuple(right.tolist()),
        )

    def _request(self, backbone: str, strategy: StrategyName, share: float) -> FinetuneRequest:
        """The training of a backbone with a strategy, for a share of its steps."""
        request = self._candidates[backbone].request(self._asked, strategy)
        if share == 1:
            return request
        epochs = whole_epochs(request, len(self._data.of("train")))
        return replace(request, epochs=max(1, round(share * epochs)), patience=0)


def whole_epochs(request: FinetuneRequest, images: int) -> int:
    """Passes of a whole training with a strategy that trains, on so many images."""
    assert request.strategy != "auto"
    per_epoch = max(1, math.ceil(images / request.batch_size))
    return request.epochs or STRATEGIES[request.strategy].epochs_of(per_epoch)


def _after(entrant: Entrant, heat: Heat, probe: Heat) -> Entrant:
    return replace(entrant, expectation=entrant.expectation.given(np.array(heat.right), np.array(probe.right)))


def _right(folder: Path, data: DataSet) -> NDArray[np.bool_]:
    found = RunFolder(folder).read_predictions()["test"]
    right: NDArray[np.bool_] = found.argmax(1) == labels(data.of("test"))
    return right
