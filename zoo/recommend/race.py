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
from zoo.recommend.prior import REFERENCE, Expectation, Seen
from zoo.recommend.profile import Profile

RUNG = 0.3
"""Share of the steps of a whole training after which the worse half retires (successive halving; Jamieson and Talwalkar
2016). After a tenth, many are still behind the probe that they began as."""
_REST = Expectation(mean=-0.15, sd=0.42, data_sets=6)
"""What the rest of its steps makes of the error rate of a training beside that of a probe, as `benchmarks/regret.py`
measured it."""
_WORTH = 0.005
"""Half a point of accuracy: a training that promises less is not worth its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A backbone with a strategy, and how good it should be."""

    backbone: str
    """`<plugin>/<name>@<tag>`."""
    strategy: StrategyName
    probe_error: float
    """Error rate of a probe of this backbone."""
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
    def seen(self) -> Seen:
        """Its mistakes on the validation images."""
        return Seen(sum(not each for each in self.right), len(self.right))


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
        self._heats: dict[str, Heat] = {}

    @property
    def heats(self) -> list[Heat]:
        """Those so far, in their order."""
        return list(self._heats.values())

    @property
    def has_judges(self) -> bool:
        """Whether there are validation images."""
        return bool(self._data.of("test"))

    def probe(self, backbone: str) -> Heat:
        """That of a probe, all of it."""
        return self._heat(backbone, REFERENCE, 1.0)

    def decide(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """Those that train, with what was seen of them, and the probes; the best first."""
        seen = [each if each.strategy == REFERENCE else self._raced(each) for each in entrants]
        return sorted(seen, key=lambda each: each.error)

    def _raced(self, entrant: Entrant) -> Entrant:
        probe = np.array(self.probe(entrant.backbone).right)
        ours = np.array(self._heat(entrant.backbone, entrant.strategy, RUNG).right)
        return replace(entrant, expectation=entrant.expectation.given(ours, probe, _REST))

    def _heat(self, backbone: str, strategy: StrategyName, share: float) -> Heat:
        name = f"race of {backbone} {strategy} {share:g}"
        if name not in self._heats:
            self._heats[name] = Heat(**self._run.decide(name, lambda: asdict(self._train(backbone, strategy, share))))
        return self._heats[name]

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
        """The training of a backbone with a strategy, for a share of its steps, without what is asked beside it."""
        asked = replace(self._asked, trials=None, lr_race=False, compare_scratch=False, track_test=False)
        request = self._candidates[backbone].request(asked, strategy)
        if share == 1:
            return request
        epochs = _epochs(request, len(self._data.of("train")))
        return replace(request, epochs=max(1, round(share * epochs)), patience=0)


def worth_most(entrants: Sequence[Entrant]) -> Entrant | None:
    """The first of them, the best first, unless it trains for next to nothing; None where there is none."""
    probe = next((each for each in entrants if each.strategy == REFERENCE), None)
    if probe is not None and probe.error - entrants[0].error < _WORTH:
        return probe
    return entrants[0] if entrants else None


def training_seconds(request: FinetuneRequest, images: int, profile: Profile) -> float:
    """At most, what the training `request` on so many images takes here: forward and backward through all of the
    backbone, to the last step.

    A probe takes what looking at the images once did.
    """
    if request.strategy == REFERENCE:
        return profile.seconds
    return _epochs(request, images) * images * profile.image_seconds


def _epochs(request: FinetuneRequest, images: int) -> int:
    """Passes of a whole training with a strategy that trains, on so many images."""
    assert request.strategy != "auto"
    per_epoch = max(1, math.ceil(images / request.batch_size))
    return request.epochs or STRATEGIES[request.strategy].epochs_of(per_epoch)


def _right(folder: Path, data: DataSet) -> NDArray[np.bool_]:
    found = RunFolder(folder).read_predictions()["test"]
    right: NDArray[np.bool_] = found.argmax(1) == labels(data.of("test"))
    return right
