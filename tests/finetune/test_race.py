"""A race of learning rates leaves nothing behind but its winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoo.artifacts.runs import RunFolder
from zoo.finetune.race import race
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.finetune.run import finetune
from zoo.nn.model import TransferModel, state_digest
from zoo.progress import Silent


def test_all_start_from_the_same_weights_and_statistics(
    dataset: Path, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[str] = []

    def watched(model: TransferModel, plan: Any, start: Any, run: RunFolder, progress: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            starts.append(state_digest([model.backbone]))
            return start(*arguments)

        found = race(model, plan, noted, run, progress)
        starts.append(state_digest([model.backbone]))
        return found

    monkeypatch.setattr("zoo.finetune.job.race", watched)
    # From random weights the statistics of BatchNorm are trained, too.
    request = FinetuneRequest(
        data=str(dataset),
        backbone="tiny/glyphnet",
        strategy="scratch",
        lr_race=True,
        epochs=10,
        device="cpu",
        threads=1,
    )
    finetune(request, tmp_path / "run", environment, Silent())
    assert len(starts) == 4
    assert len(set(starts)) == 1
