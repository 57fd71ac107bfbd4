"""What other data sets let one expect, and what is seen makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from zoo.catalogue.results import Result, add_results, read_results
from zoo.recommend.prior import Expectation, Seen, expect, expect_probes, pooled_errors
from zoo.recommend.race import Entrant, worth_most

_OVER = Expectation(0.0, 0.0, 0)
"""A training that was looked at when it was over."""


def _result(data: str, strategy: str, accuracy: float, per_class: int = 20, backbone: str = "a/b@c") -> Result:
    return Result(
        data=data,
        classes=5,
        train_images=5 * per_class,
        backbone=backbone,
        strategy=strategy,
        test_accuracy=accuracy,
        seconds=1.0,
    )


def _pair(data: str, probe: float, trained: float, per_class: int = 20) -> list[Result]:
    return [_result(data, "probe", probe, per_class), _result(data, "lp-ft", trained, per_class)]


def test_nothing_known_is_nothing_expected() -> None:
    found = expect([], "lp-ft", "a/b@c", 20)
    assert (found.mean, found.data_sets) == (0, 0)
    assert found.sd > 0.3
    assert expect(_pair("x", 0.5, 0.9), "probe", "a/b@c", 20).error(0.1) == pytest.approx(0.1)


def test_halved_mistakes_everywhere_are_expected_here() -> None:
    results = [row for name in "abcdefgh" for row in _pair(name, 0.8, 0.9)]
    found = expect(results, "lp-ft", "a/b@c", 20)
    assert found.data_sets == 8
    assert found.error(0.3) == pytest.approx(0.15, rel=0.15)
    assert found.sd < 0.35


def test_data_of_another_size_counts_less() -> None:
    near, far = _pair("near", 0.8, 0.9, per_class=20), _pair("far", 0.9, 0.8, per_class=1000)
    assert expect([*near, *far], "lp-ft", "a/b@c", 20).mean < 0 < expect([*near, *far], "lp-ft", "a/b@c", 1000).mean


def test_many_backbones_on_one_data_set_are_one_data_set() -> None:
    rows = [
        _result("one", strategy, accuracy, backbone=f"a/{number}@c")
        for number in range(10)
        for strategy, accuracy in (("probe", 0.8), ("lp-ft", 0.9))
    ]
    alone = expect(_pair("one", 0.8, 0.9), "lp-ft", "a/b@c", 20)
    assert expect(rows, "lp-ft", "a/b@c", 20).mean == pytest.approx(alone.mean)


def test_a_backbone_that_gains_more_than_others_is_expected_to() -> None:
    accuracies = {"a/eager@c": {"probe": 0.8, "lp-ft": 0.9}, "a/stubborn@c": {"probe": 0.8, "lp-ft": 0.8}}
    rows = [
        _result(data, strategy, accuracy, backbone=backbone)
        for data in "abc"
        for backbone, of_backbone in accuracies.items()
        for strategy, accuracy in of_backbone.items()
    ]
    eager, stubborn, unknown = (expect(rows, "lp-ft", name, 20) for name in ("a/eager@c", "a/stubborn@c", "a/new@c"))
    # Halved by one and left by the other on three data sets, with nothing as a fourth.
    assert unknown.mean == pytest.approx(math.log(0.5) / 2 * 3 / 4)
    assert eager.mean == pytest.approx(2 * unknown.mean)
    assert stubborn.mean == pytest.approx(0)
    assert eager.sd == unknown.sd


def test_training_must_promise_half_a_point() -> None:
    gains = {gain: Expectation(math.log(1 - gain), 0.1, 6) for gain in (0.2, 0.01)}
    probe = Entrant(backbone="a/b@c", strategy="probe", probe_error=0.2, expectation=expect([], "probe", "a/b@c", 20))
    much, little = (replace(probe, strategy="lp-ft", expectation=gain) for gain in gains.values())
    assert worth_most([much, probe]) is much
    assert worth_most([little, probe]) is probe
    assert worth_most([probe, little]) is probe
    assert worth_most([little]) is little
    assert worth_most([]) is None


def test_what_is_seen_counts_by_how_much_it_tells() -> None:
    prior = expect([], "lp-ft", "a/b@c", 20)
    few_probe, many_probe = np.arange(10) >= 4, np.arange(1000) >= 400
    few = prior.given(np.arange(10) >= 2, few_probe, _OVER)
    many = prior.given(np.arange(1000) >= 200, many_probe, _OVER)
    assert math.log(0.5) < many.mean < few.mean < 0
    assert many.mean == pytest.approx(math.log(0.5), abs=0.05)
    assert many.sd < few.sd < prior.sd
    same = prior.given(few_probe, few_probe, _OVER)
    assert same.mean == 0
    everything = prior.given(np.ones(10, bool), np.ones(10, bool), _OVER)
    assert math.isfinite(everything.mean)


def test_training_goes_on_after_a_look() -> None:
    right = np.arange(1000) >= 200
    seen = expect([], "lp-ft", "a/b@c", 20).given(right, right, Expectation(-0.2, 0.17, 0))
    at_its_end = expect([], "lp-ft", "a/b@c", 20).given(right, right, _OVER)
    assert seen.mean < at_its_end.mean
    assert seen.sd > at_its_end.sd


def test_a_look_is_worth_it_where_it_tells_more_than_is_known() -> None:
    nothing_known = expect([], "lp-ft", "a/b@c", 20)
    much_known = expect([row for number in range(50) for row in _pair(str(number), 0.8, 0.8)], "lp-ft", "a/b@c", 20)
    assert not nothing_known.would_learn(0.3, 0)
    assert not nothing_known.would_learn(0.3, 5)
    assert nothing_known.would_learn(0.3, 100)
    assert not nothing_known.would_learn(0.01, 100)  # one mistake or two
    assert nothing_known.would_learn(0.01, 3_000)
    assert not much_known.would_learn(0.3, 100)
    assert not expect([], "probe", "a/b@c", 20).would_learn(0.3, 10_000)


def test_backbones_are_compared_on_the_same_data() -> None:
    results = [
        _result(data, "probe", accuracy, backbone=backbone)
        for data, easy in (("easy", 0.9), ("hard", 0.0), ("middle", 0.5))
        for backbone, accuracy in (("a/good@c", 1 - 0.1 * (1 - easy)), ("a/bad@c", 1 - 0.4 * (1 - easy)))
    ]
    found = expect_probes([*results, _result("alone", "probe", 0.1, backbone="a/good@c")], ["a/good@c", "a/bad@c"], 20)
    assert found["a/good@c"].mean == pytest.approx(-found["a/bad@c"].mean)
    assert found["a/good@c"].mean == pytest.approx(math.log(0.5) * 3 / 4)  # three data sets, and nothing as a fourth
    assert found["a/good@c"].data_sets == 3
    unknown = expect_probes(results, ["a/good@c", "other/one@c"], 20)
    assert [unknown[name].data_sets for name in ("a/good@c", "other/one@c")] == [0, 0]


def test_few_images_leave_it_to_what_is_known_and_many_do_not() -> None:
    known = [
        row
        for name in "abcdefgh"
        for row in (
            _result(name, "probe", 0.9, backbone="a/good@c"),
            _result(name, "probe", 0.6, backbone="a/bad@c"),
        )
    ]
    expected = expect_probes(known, ["a/good@c", "a/bad@c"], 20)
    rates = {"a/good@c": 0.4, "a/bad@c": 0.3}

    def seen(images: int) -> dict[str, Seen]:
        return {name: Seen(rate * images, images) for name, rate in rates.items()}

    few, many = pooled_errors(seen(20), expected), pooled_errors(seen(2_000), expected)
    assert few["a/good@c"] < few["a/bad@c"]
    assert many["a/good@c"] > many["a/bad@c"]
    assert many == pytest.approx(rates, rel=0.1)
    nothing = pooled_errors(seen(20), expect_probes([], list(rates), 20))
    assert 0.3 < nothing["a/bad@c"] < nothing["a/good@c"] < 0.4
    perfect = pooled_errors({"a/good@c": Seen(0, 20)}, expected)
    assert perfect["a/good@c"] == pytest.approx(0.5 / 21)


def test_results_are_kept_once() -> None:
    registry = add_results({"schema": 1, "plugins": [], "backbones": []}, _pair("x", 0.5, 0.6))
    again = add_results(registry, [_result("x", "lp-ft", 0.7)])
    assert [row["test_accuracy"] for row in again["results"]] == [0.7, 0.5]
    assert {each.test_accuracy for each in read_results([registry, again])} == {0.7, 0.5}
