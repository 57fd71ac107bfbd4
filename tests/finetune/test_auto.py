"""Which strategy suits the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoo.data.dataset import DataSet, Sample
from zoo.errors import UsageError
from zoo.finetune.auto import settle
from zoo.finetune.request import FinetuneRequest

PARAMS = (10, 20, 300, 2000)


def _data(per_class: int) -> DataSet:
    samples = tuple(
        Sample(file=f"{label}/{number}.png", label=label, split="train", sha256="0" * 64)
        for label in range(2)
        for number in range(per_class)
    )
    return DataSet(source="x", root=Path("x"), classes=("a", "b"), samples=samples)


@pytest.mark.parametrize(
    ("per_class", "options", "params", "strategy", "frozen"),
    [
        (9, {}, PARAMS, "probe", None),
        (9, {"epochs": 3}, PARAMS, "partial", 2),  # training was asked for
        (9, {"augment": "gentle"}, PARAMS, "probe", None),  # a probe takes views, too
        (10, {}, PARAMS, "partial", 2),
        (10, {}, (300, 10, 20), "lp-ft", None),  # the lowest stage is most of the network
        (2500, {}, PARAMS, "lp-ft", None),
        (2, {"strategy": "full"}, PARAMS, "full", None),
    ],
)
def test_the_choice(
    per_class: int, options: dict[str, Any], params: tuple[int, ...], strategy: str, frozen: int | None
) -> None:
    request = FinetuneRequest(data="x", backbone="y", **options)
    settled, why = settle(request, _data(per_class), lambda: params)
    assert settled == replace(request, strategy=strategy, freeze_stages=frozen)  # type: ignore[arg-type]
    assert why
    assert ("--epochs asks for training, for which 9 images per class are few" in why) == ("epochs" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "probe", "average": True}, "--average means nothing to a probe"),
        ({"strategy": "lp-ft", "co_tuning": 2.3, "drop_stages": 1}, "--co-tuning needs the classifier of the source"),
    ],
)
def test_options_that_would_do_nothing_or_break_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FinetuneRequest(data="x", backbone="y", **options)
