"""What `zoo recommend` chooses beside what an exhaustive grid would: regret, cost, and simpler rules.

    python benchmarks/regret.py SHARED --cells benchmarks/grid.jsonl --choices choices.jsonl --cache CACHE

For each data set and size of `benchmarks/grid.py` the recommendation is made once, knowing only what the grid measured
on the other data sets; its training is the cell of the grid with the same settings. The grid's own choice is the cell
with the best validation accuracy (of equals, the lowest loss); its test accuracy is read once. Regret is the difference
of the two, in points; with `--seeds 2` the noise beside it is that of its training and the same with another seed.
Choices are appended to a file of JSON lines, and trainings that the grid lacks to its cells; what is there is not
measured again. Cost is time of processors: that of the recommendation and its training, beside that of all cells of the
slice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grid import (
    AS_RECORDED,
    BASELINE,
    DATA_SETS,
    SHOTS,
    STEPS,
    STRATEGIES,
    TAG,
    WEIGHTS,
    Cell,
    budget,
    environment,
    ids,
    measured,
    processor_seconds,
    read,
    results,
    source,
)
from reporting import report

from zoo.data.splits import open_dataset
from zoo.finetune.request import FinetuneRequest
from zoo.finetune.resolve import Environment
from zoo.progress import Silent
from zoo.recommend.candidates import Limits
from zoo.recommend.prior import REFERENCE
from zoo.recommend.race import RUNG
from zoo.recommend.run import recommend

_IMAGENET_BEST = BASELINE["backbone"]
_LEAST_ERROR = 0.01
"""Lower rates are taken for this one, as where results are learnt from."""


def choose(name: dict[str, Any], shared: Path, around: Environment, cells: Sequence[Cell]) -> dict[str, Any]:
    """The recommendation for one slice, knowing the others, and what it cost."""
    data, same = source(name["data"], shared), budget(name["shots"])
    split = {key: same[key] for key in ("shots", "val_share")}
    images = open_dataset(data, cache=around.cache, progress=Silent(), **split)
    epochs = -(-STEPS // max(1, -(-len(images.of("train")) // 32)))
    asked = FinetuneRequest(data=data, backbone="auto", epochs=epochs, **same)
    with tempfile.TemporaryDirectory() as folder:
        fresh = replace(around, cache=Path(folder) / "cache")
        began, used = time.perf_counter(), processor_seconds()
        known = results([cell for cell in cells if cell["data"] != name["data"]], ids(around.catalogue, tag=TAG))
        found = recommend(asked, Path(folder) / "out", fresh, Silent(), limits=Limits(), results=known)
        cost = {"seconds": time.perf_counter() - began, "cpu_seconds": processor_seconds() - used}
    kept = {key: found[key] for key in ("backbone", "strategy", "quadrant", "why", "expected")}
    kept["race"] = [{key: value for key, value in heat.items() if key != "right"} for heat in found["race"]]
    kept["ranking"] = {row["backbone"]: [row["accuracy"], row["score"]] for row in found["ranking"]}
    return {**name, **{key: round(value, 1) for key, value in cost.items()}, **kept}


def _in_grid(cell: Cell) -> bool:
    return cell["strategy"] in STRATEGIES or BASELINE.items() <= cell.items()


def _best(cells: Sequence[Cell]) -> Cell:
    """What a user of the grid would take."""
    cells = [cell for cell in cells if cell["strategy"] in STRATEGIES]
    return max(cells, key=lambda cell: (cell["val_accuracy"], -cell["val_loss"]))


def _in_words_of_grid(strategy: str) -> str:
    return next((own for own, recorded in AS_RECORDED.items() if recorded == strategy), strategy)


def _found(cells: Sequence[Cell], backbone: str, strategy: str) -> Cell:
    return next(cell for cell in cells if (cell["backbone"], cell["strategy"]) == (backbone, strategy))


_RULES: dict[str, Callable[[Sequence[Cell]], float]] = {
    "best on ImageNet, lp-ft": lambda cells: _found(cells, _IMAGENET_BEST, "lp-ft")["test_accuracy"],
    "best on ImageNet, full": lambda cells: _found(cells, _IMAGENET_BEST, BASELINE["strategy"])["test_accuracy"],
    "always a probe": lambda cells: _best([c for c in cells if c["strategy"] == "multi-tap"])["test_accuracy"],
    "random": lambda cells: statistics.mean(cell["test_accuracy"] for cell in cells),
    "oracle": lambda cells: max(cell["test_accuracy"] for cell in cells),
}


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--choices", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="unpacked data sets are kept here")
    parser.add_argument("--data", action="append", help=f"names of data sets (default: {', '.join(DATA_SETS)})")
    parser.add_argument("--without", action="append", default=[], choices=STRATEGIES, help="a grid without these")
    parser.add_argument("--seeds", type=int, default=1, help="train what was chosen so often, for the noise")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    every = [
        cell
        for cell in read(arguments.cells)
        if cell["seed"] == 0 and "error" not in cell and cell["strategy"] not in arguments.without
    ]
    around = environment(arguments.shared, arguments.cache)
    slices = []
    for data, shots in itertools.product(arguments.data or DATA_SETS, SHOTS):
        name = {"data": data, "shots": shots}
        cells = [cell for cell in every if name.items() <= cell.items() and _in_grid(cell)]
        if len(cells) < (len(STRATEGIES) - len(set(arguments.without))) * len(WEIGHTS) + 1:
            print(name, "is not whole yet", file=sys.stderr)
            continue
        made = next((row for row in read(arguments.choices) if name.items() <= row.items()), None)
        if made is None:
            made = choose(name, arguments.shared, around, every)
            with arguments.choices.open("a") as file:
                file.write(json.dumps(made) + "\n")
            print(name, made["backbone"], made["strategy"], file=sys.stderr)
        slices.append((name, cells, made))
    rows = []
    for name, cells, made in slices:
        way = {"backbone": made["backbone"].partition("@")[0], "strategy": _in_words_of_grid(made["strategy"])}
        auto, *again = (
            measured({**name, **way, "seed": seed}, arguments.cells, arguments.shared, around)
            for seed in range(arguments.seeds)
        )
        rows.append(_row(name, cells, made["cpu_seconds"] + auto["cpu_seconds"], auto, again))
    means = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if isinstance(rows[0][key], float)}
    report([*rows, {"slice": "mean", **means}], arguments.out)
    if rest := _rest(every, read(arguments.choices)):
        mean, sd = rest
        print(f"at its end a training makes exp({mean:.2f}) times the mistakes that its race promised, sd {sd:.2f}")


def _row(name: dict[str, Any], cells: Sequence[Cell], cost: float, auto: Cell, again: Sequence[Cell]) -> dict[str, Any]:
    """Accuracies in percent, regrets and noise in points; `again` are those of `auto` with other seeds."""
    grid = _best(cells)
    noise = [100 * abs(auto["test_accuracy"] - each["test_accuracy"]) for each in again]
    rules = {rule: 100 * (grid["test_accuracy"] - accuracy(cells)) for rule, accuracy in _RULES.items()}
    return {
        "slice": f"{name['data']}, {name['shots'] or 'all'} per class",
        "grid": f"{grid['backbone'].rpartition('/')[2]} {grid['strategy']}",
        "auto": f"{auto['backbone'].rpartition('/')[2]} {auto['strategy']}",
        "grid, %": 100 * grid["test_accuracy"],
        "auto, %": 100 * auto["test_accuracy"],
        "regret": 100 * (grid["test_accuracy"] - auto["test_accuracy"]),
        **({"noise": statistics.mean(noise)} if noise else {}),
        "cost": cost / sum(cell["cpu_seconds"] for cell in cells),
        **rules,
    }


def _rest(cells: Sequence[Cell], choices: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """What the mistakes of trainings at their end, on test images and beside those of a probe, were beside what races
    had seen of both on validation images: the mean of the logarithm, and its standard deviation without the chance of
    so few images, of whose mistakes half are taken to be common; None where nothing raced."""
    logs, chance = [], []
    for made in choices:
        probes = {heat["backbone"]: heat for heat in made["race"] if heat["strategy"] == REFERENCE}
        for heat in made["race"]:
            name = {"data": made["data"], "shots": made["shots"], "backbone": heat["backbone"].partition("@")[0]}
            ways = {cell["strategy"]: cell for cell in cells if name.items() <= cell.items()}
            if heat["share"] == RUNG and ways:
                pair = [ways[_in_words_of_grid(way)] for way in (heat["strategy"], REFERENCE)]
                ours, probe = (max(1 - cell["test_accuracy"], _LEAST_ERROR) for cell in pair)
                images = pair[0]["images"] - pair[0]["train_images"]
                seen, before = ((1 - each["val_accuracy"]) * images + 0.5 for each in (heat, probes[heat["backbone"]]))
                logs.append(math.log(ours / probe) - math.log(seen / before))
                chance.append((seen + before) / 2 / (seen * before))
    if not logs:
        return None
    return statistics.mean(logs), math.sqrt(max(0, statistics.pvariance(logs) - statistics.mean(chance)))


if __name__ == "__main__":
    main()
